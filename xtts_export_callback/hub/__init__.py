"""Puts an inference folder on the Hugging Face Hub: what is sent, the model card, the check for private things."""
