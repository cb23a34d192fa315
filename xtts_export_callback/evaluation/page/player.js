"use strict";
/* Plays the clips of one sentence: one at a time, from the same place when another is chosen. */

const FADE = 0.015; // seconds; short enough to sound like a switch, long enough not to click
let context;

function audio() {
  context ??= new AudioContext();
  return context;
}

async function decode(key) {
  const bytes = Uint8Array.from(atob(document.getElementById(key).textContent), (c) => c.charCodeAt(0));
  return audio().decodeAudioData(bytes.buffer);
}

class Deck {
  static current; // the one that holds decoded clips; the others have given theirs back

  /** clips: [{key, gain}]; changed() is called when anything but the position has changed. */
  constructor(clips, changed) {
    Object.assign(this, { clips, changed, chosen: 0, at: 0, loop: false, source: null, buffers: null });
  }

  get seconds() {
    return this.buffers?.[this.chosen].duration ?? 0;
  }

  get playing() {
    return this.source !== null;
  }

  /** Where it is, as a share of the clip, so that another voice goes on at about the same word. */
  get position() {
    if (!this.source) return this.at;
    const now = this.at + Math.max(0, audio().currentTime - this.since) / this.seconds;
    return this.loop ? now % 1 : Math.min(now, 1);
  }

  async play() {
    if (Deck.current !== this) {
      Deck.current?.release();
      Deck.current = this;
    }
    this.wanted = true;
    audio().resume();
    this.loading ??= Promise.all(this.clips.map((clip) => decode(clip.key)));
    const buffers = await this.loading;
    if (Deck.current !== this || !this.wanted) return;
    this.buffers = buffers;
    this.start(this.at >= 1 ? 0 : this.at);
  }

  pause() {
    this.wanted = false;
    this.at = this.position;
    this.stop();
    this.changed();
  }

  toggle() {
    return this.playing ? this.pause() : this.play();
  }

  choose(index) {
    const at = this.position;
    this.chosen = index;
    this.seek(at);
  }

  seek(at) {
    this.at = at;
    if (this.playing) this.start(at);
    else this.changed();
  }

  setLoop(loop) {
    this.seek(this.position);
    this.loop = loop;
    if (this.source) this.source.loop = loop;
    this.changed();
  }

  start(at) {
    this.stop();
    const now = audio().currentTime;
    const source = new AudioBufferSourceNode(audio(), { buffer: this.buffers[this.chosen], loop: this.loop });
    const volume = new GainNode(audio(), { gain: 0 });
    volume.gain.setValueAtTime(0, now);
    volume.gain.linearRampToValueAtTime(this.clips[this.chosen].gain, now + FADE);
    source.connect(volume).connect(audio().destination);
    source.onended = () => {
      if (this.source !== source) return;
      Object.assign(this, { source: null, at: 0, wanted: false });
      this.changed();
    };
    source.start(now, at * this.seconds);
    Object.assign(this, { source, volume, at, since: now });
    this.changed();
  }

  /** Fades out what plays, while what comes next fades in. */
  stop() {
    if (!this.source) return;
    const now = audio().currentTime;
    this.volume.gain.cancelScheduledValues(now);
    this.volume.gain.setTargetAtTime(0, now, FADE / 4);
    this.source.stop(now + 2 * FADE);
    this.source = null;
  }

  release() {
    if (this.playing || this.wanted) this.pause();
    this.buffers = this.loading = null;
  }
}

class Player {
  static all = [];

  constructor(root) {
    this.root = root;
    this.play = root.querySelector(".play");
    this.seek = root.querySelector(".seek");
    this.clock = root.querySelector(".clock");
    this.loop = root.querySelector(".loop");
    this.cards = [...root.querySelectorAll(".clip")];
    const clips = this.cards.map((card) => ({ key: card.dataset.sound, gain: Number(card.dataset.gain) }));
    this.deck = new Deck(clips, () => this.show());
    this.play.addEventListener("click", () => this.deck.toggle());
    this.loop.addEventListener("click", () => this.deck.setLoop(!this.deck.loop));
    this.seek.addEventListener("input", () => this.deck.seek(this.seek.value / 1000));
    this.cards.forEach((card, index) => card.addEventListener("click", (event) => this.pick(index, event)));
    root.closest(".sentence").addEventListener("keydown", (event) => this.key(event));
    Player.all.push(this);
    this.show();
  }

  /** A card chooses its clip; clicked into the waveform, it goes to that place; clicked again, it pauses. */
  pick(index, event) {
    const wave = event.target.closest(".wave");
    const again = index === this.deck.chosen && this.deck.playing;
    if (again && !wave) return this.deck.pause();
    this.deck.choose(index);
    if (wave) {
      const box = wave.getBoundingClientRect();
      this.deck.seek(Math.min(0.999, Math.max(0, (event.clientX - box.left) / box.width)));
    }
    if (!this.deck.playing) this.deck.play();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("summary")) return;
    const count = this.cards.length;
    const key = event.key.toLowerCase();
    const step = { arrowright: 1, arrowleft: -1 }[key];
    const number = /^[0-9]$/.test(key) ? (Number(key) + 9) % 10 : null;
    if (key === " " && event.target.tagName !== "BUTTON") this.deck.toggle();
    else if (number !== null && number < count) this.focus(number);
    else if (step && event.target !== this.seek) this.focus((this.deck.chosen + step + count) % count);
    else if (key === "l") this.loop.click();
    else if (key === "j" || key === "k") {
      const next = Player.all[Player.all.indexOf(this) + (key === "j" ? 1 : -1)];
      next?.play.focus();
      next?.root.closest(".sentence").scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
  }

  focus(index) {
    this.deck.choose(index);
    this.cards[index].focus();
  }

  show() {
    this.play.textContent = this.deck.playing ? "Pause" : "Play";
    this.loop.setAttribute("aria-pressed", this.deck.loop);
    this.cards.forEach((card, index) => card.setAttribute("aria-pressed", index === this.deck.chosen));
    this.move();
  }

  move() {
    const at = this.deck.position;
    const card = this.cards[this.deck.chosen];
    const seconds = Number(card.dataset.seconds);
    const text = `${(at * seconds).toFixed(1)} / ${seconds.toFixed(1)} s`;
    card.style.setProperty("--at", at.toFixed(4));
    this.seek.value = Math.round(at * 1000);
    this.seek.setAttribute("aria-valuetext", `${(at * seconds).toFixed(1)} of ${seconds.toFixed(1)} seconds`);
    this.clock.textContent = text;
    if (this.deck.playing) requestAnimationFrame(() => this.deck.playing && this.move());
  }
}

document.querySelectorAll(".player").forEach((root) => new Player(root));
