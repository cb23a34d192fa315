/* Blind comparison: pairs in random order and on random sides, without names until all votes are given. */

const data = JSON.parse(document.getElementById("blind-data").textContent);
const dialog = document.getElementById("blind");
const body = document.getElementById("blind-body");
const title = document.getElementById("blind-title");
const status = document.getElementById("blind-status");
const unfinished = document.getElementById("unfinished");
const STORAGE = `xtts-export blind ${data.id}`;
let vote = null; // {candidates, trials: [{group, left, right}], answers: [{choice, heard, ms, comment}]}
let deck = null;
let shortcuts = null; // of what the dialog shows

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function keep() {
  try {
    localStorage.setItem(STORAGE, JSON.stringify(vote));
  } catch {
    status.textContent = "This browser does not keep the vote; finish it before you close the page.";
  }
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(STORAGE));
    const known = (trial) => data.groups[trial.group]?.clips[trial.left] && data.groups[trial.group].clips[trial.right];
    return found?.trials?.length && Array.isArray(found.answers) && Array.isArray(found.candidates) && found.trials.every(known) ? found : null;
  } catch {
    return null;
  }
}

function forget() {
  vote = null;
  try {
    localStorage.removeItem(STORAGE);
  } catch { /* nothing was kept */ }
}

/** Every pair of candidates for every sentence that both say. */
function pairs(candidates) {
  return data.groups.flatMap(({ clips }, group) =>
    candidates.flatMap((left, i) =>
      candidates.slice(i + 1).filter((right) => clips[left] && clips[right]).map((right) => ({ group, left, right })),
    ),
  );
}

function shuffled(trials) {
  const mixed = trials.map((trial) =>
    Math.random() < 0.5 ? trial : { ...trial, left: trial.right, right: trial.left },
  );
  for (let i = mixed.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}

function show(heading, ...content) {
  deck?.release();
  deck = shortcuts = null;
  title.textContent = heading;
  body.replaceChildren(...content);
}

function button(text, action, className = "") {
  const made = element("button", { type: "button", textContent: text, className });
  made.addEventListener("click", action);
  return made;
}

function showSetup() {
  const count = element("p", { className: "ask" });
  const start = button("Start", () => {
    vote = { candidates: chosen(), trials: shuffled(pairs(chosen())), answers: [] };
    keep();
    showTrial();
  }, "primary");
  const boxes = data.candidates.map((name, index) =>
    element("input", { type: "checkbox", value: name, checked: index < 2, onchange: update }),
  );
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  function update() {
    const trials = pairs(chosen()).length;
    start.disabled = trials === 0;
    count.textContent = trials ? `${trials} comparison${trials === 1 ? "" : "s"}, about ${Math.ceil(trials / 3)} min.` :
      "Choose two or more that say the same sentence.";
  }
  show(
    "Blind comparison",
    element("p", { className: "lead", textContent: "You hear two clips at a time, A and B, and say which one you prefer. Order and sides are random; the names are shown at the end." }),
    element("fieldset", { className: "choices" }, element("legend", { textContent: "Compare" }),
      ...boxes.map((box) => element("label", {}, box, element("span", { textContent: box.value })))),
    count,
    element("div", { className: "actions" }, start),
  );
  update();
  title.focus();
}

function showTrial() {
  const number = vote.answers.length;
  if (number >= vote.trials.length) return showResult();
  const { group, left, right } = vote.trials[number];
  const { text, language, clips } = data.groups[group];
  const started = performance.now();
  const heard = new Set();
  const sides = ["A", "B"].map((name, index) => {
    const made = button("", () => listen(index));
    made.append(`${name} `, element("small", { textContent: "listen" }));
    return made;
  });
  const comment = element("input", { type: "text", maxLength: 500 });
  const votes = [["A is better", left], ["No difference", null], ["B is better", right]].map(([label, choice]) =>
    button(label, () => {
      vote.answers.push({ choice, ms: Math.round(performance.now() - started), comment: comment.value });
      keep();
      showTrial();
    }),
  );
  show(
    `Comparison ${number + 1} of ${vote.trials.length}`,
    element("progress", { max: vote.trials.length, value: number, ariaLabel: "Comparisons done" }),
    element("p", { className: "trial-text", lang: language || "en", textContent: text }),
    element("div", { className: "ab", role: "group", ariaLabel: "Clips" }, ...sides),
    element("p", { className: "ask", textContent: "Listen to both, as often as you like. Which one do you prefer?" }),
    element("div", { className: "votes", role: "group", ariaLabel: "Your vote" }, ...votes),
    element("label", { className: "comment" }, "Comment (optional)", comment),
    element("p", { className: "keys", innerHTML: "<kbd>A</kbd> <kbd>B</kbd> listen <kbd>Space</kbd> play or pause <kbd>1</kbd> A is better <kbd>2</kbd> no difference <kbd>3</kbd> B is better" }),
  );
  deck = new Deck([clips[left], clips[right]], () => {
    sides.forEach((side, index) => {
      const active = index === deck?.chosen && deck.playing;
      side.setAttribute("aria-pressed", active);
      side.lastChild.textContent = active ? "playing" : heard.has(index) ? "heard" : "listen";
    });
    votes.forEach((one) => { one.disabled = heard.size < 2; });
  });
  const mine = deck;
  function listen(index) {
    heard.add(index);
    if (mine.playing && mine.chosen === index) return mine.pause();
    mine.choose(index);
    if (!mine.playing) mine.play();
  }
  deck.changed();
  shortcuts = (event, key) => {
    if (event.target === comment) return;
    if (key === "a" || key === "b") listen(key === "a" ? 0 : 1);
    else if (key === " " && event.target.tagName !== "BUTTON") listen(mine.chosen);
    else if ("123".includes(key) && !votes[key - 1].disabled) votes[key - 1].click();
    else return;
    event.preventDefault();
  };
  status.textContent = `${title.textContent}. ${text}`;
  title.focus();
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** The votes in a sentence, and for more than two candidates a table. */
function verdictOf({ candidates, trials, answers }) {
  const index = (name) => candidates.indexOf(name);
  const votes = answers.map(({ choice }, i) => ({
    left: index(trials[i].left), right: index(trials[i].right), winner: choice === null ? null : index(choice),
  }));
  const same = votes.filter((one) => one.winner === null).length;
  const ties = same ? ` ${same} without a difference ${same === 1 ? "is" : "are"} not counted.` : "";
  if (candidates.length === 2) {
    const decided = votes.filter((one) => one.winner !== null);
    if (!decided.length) return { sentence: "You heard no difference.", rows: [] };
    const hits = decided.filter((one) => one.winner === 0).length;
    const [best, wins] = hits * 2 >= decided.length ? [0, hits] : [1, decided.length - hits];
    const [low, high] = exactInterval(wins, decided.length);
    const sure = low > 0.5 ? "" : " This may be chance.";
    const score = `${wins} of ${decided.length} votes, ${percent(wins / decided.length)} (95 % interval ${percent(low)} to ${percent(high)})`;
    const sentence = wins * 2 === decided.length ? `You prefer neither: ${score}.` : `You prefer ${candidates[best]}: ${score}.${sure}`;
    return { sentence: sentence + ties, rows: [] };
  }
  const rows = preferenceIntervals(votes, candidates.length).map((found, i) => ({ name: candidates[i], ...found }));
  rows.sort((one, other) => other.mean - one.mean);
  const sure = rows[0].low > rows[1].high ? "" : " It is not clearly ahead of the next: this may be chance.";
  return { sentence: `You prefer ${rows[0].name}.${sure}`, rows };
}

function showResult() {
  const { sentence, rows } = verdictOf(vote);
  const cells = ({ name, mean, low, high }) => element("tr", {}, element("th", { scope: "row", textContent: name }),
    element("td", { textContent: percent(mean) }), element("td", { textContent: `${percent(low)} to ${percent(high)}` }));
  const table = element("table", { className: "plain", innerHTML: "<thead><tr><th scope=col>Candidate</th><th scope=col>Preferred to the others</th><th scope=col>95 % interval</th></tr></thead>" },
    element("tbody", {}, ...rows.map(cells)));
  show(
    "Your preference",
    element("p", { className: "result", textContent: sentence }),
    ...(rows.length ? [element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Preferences" }, table),
      element("p", { className: "keys", textContent: "Bradley-Terry model; intervals by bootstrap over votes." })] : []),
    trialList(),
    element("div", { className: "actions" },
      button("Save as CSV", save, "primary"),
      button("Start again", () => { forget(); showSetup(); })),
  );
  status.textContent = sentence;
  title.focus();
}

function trialList() {
  const line = ({ group, left, right }, i) => {
    const { choice } = vote.answers[i];
    const names = [["A", left], ["B", right]].map(([side, name]) => `${side} ${name}`).join(", ");
    const item = element("li", { textContent: `${names}: ` });
    item.append(element("strong", { textContent: choice ?? "no difference" }), ` (“${data.groups[group].text}”)`);
    return item;
  };
  return element("details", {}, element("summary", { textContent: "Every vote" }), element("ol", {}, ...vote.trials.map(line)));
}

/** Columns and answers as webMUSHRA writes paired comparisons (service/write.php, PairedComparisonPage.js). */
function csv() {
  const header = ["session_test_id", "trial_id", "choice_reference", "choice_non_reference", "choice_answer", "choice_time", "choice_comment"];
  const lines = vote.trials.map(({ group, left, right }, i) => {
    const { choice, ms, comment } = vote.answers[i];
    const [reference, other] = vote.candidates.indexOf(left) < vote.candidates.indexOf(right) ? [left, right] : [right, left];
    const answer = choice === null ? "undecided" : choice === reference ? "correct" : "incorrect";
    return [data.id, data.groups[group].key, reference, other, answer, ms, comment];
  });
  const quoted = (value) => (/[",\s\\]/.test(`${value}`) ? `"${`${value}`.replaceAll('"', '""')}"` : `${value}`);
  return [header, ...lines].map((line) => line.map(quoted).join(",") + "\n").join("");
}

function save() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  element("a", { href: url, download: "paired_comparison.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function openBlind() {
  Deck.current?.release();
  vote = kept();
  dialog.showModal();
  if (vote) showTrial();
  else showSetup();
}

/** Says that a vote waits, before the dialog is opened. */
function remind() {
  const waiting = kept();
  unfinished.hidden = !waiting;
  if (!waiting) return;
  const [done, all] = [waiting.answers.length, waiting.trials.length];
  const text = done < all ? `Your blind comparison is not finished: ${done} of ${all}.` : "Your blind comparison is finished.";
  unfinished.replaceChildren(
    element("span", { textContent: text }),
    button(done < all ? "Go on" : "Show the result", openBlind),
    button("Discard", () => { forget(); remind(); }),
  );
}

document.addEventListener("keydown", (event) => {
  if (dialog.open && !event.ctrlKey && !event.metaKey && !event.altKey) shortcuts?.(event, event.key.toLowerCase());
});
document.getElementById("blind-open")?.addEventListener("click", openBlind);
document.getElementById("blind-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { show(""); if (unfinished) remind(); });
if (unfinished) remind();
