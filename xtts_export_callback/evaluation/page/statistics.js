/* What votes say: an exact binomial interval for two candidates, Bradley-Terry for more. */

const LEVEL = 0.95;
const RESAMPLES = 1000;

/** Probability of at most k hits of n. */
function binomialAtMost(k, n, p) {
  if (p <= 0 || k >= n) return 1;
  if (p >= 1 || k < 0) return 0;
  let sum = 0;
  let log = n * Math.log1p(-p);
  for (let i = 0; i <= k; i++) {
    sum += Math.exp(log);
    log += Math.log((n - i) / (i + 1)) + Math.log(p) - Math.log1p(-p);
  }
  return Math.min(1, sum);
}

/** Exact interval of a share (Clopper and Pearson 1934): [low, high]. */
function exactInterval(hits, n) {
  const tail = (1 - LEVEL) / 2;
  const low = hits === 0 ? 0 : bisect((p) => 1 - binomialAtMost(hits - 1, n, p) - tail);
  const high = hits === n ? 1 : bisect((p) => tail - binomialAtMost(hits, n, p));
  return [low, high];
}

/** The root of an increasing function between 0 and 1. */
function bisect(f) {
  let [low, high] = [0, 1];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (f(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/**
 * Strengths of candidates (Bradley and Terry 1952; iterations of Hunter 2004) from wins[i][j], the votes for i against
 * j; "no difference" is half a vote for each. Half a vote is added both ways, so that nobody is infinitely strong.
 * They sum to 1.
 */
function bradleyTerry(wins) {
  const names = wins.map((_, i) => i);
  const won = names.map((i) => names.reduce((sum, j) => sum + (i === j ? 0 : wins[i][j] + 0.5), 0));
  let strength = names.map(() => 1 / names.length);
  for (let round = 0; round < 200; round++) {
    const next = names.map((i) => {
      const against = names.filter((j) => j !== i);
      return won[i] / against.reduce((sum, j) => sum + (wins[i][j] + wins[j][i] + 1) / (strength[i] + strength[j]), 0);
    });
    const total = next.reduce((sum, value) => sum + value, 0);
    strength = next.map((value) => value / total);
  }
  return strength;
}

/** Chance to win against the average of the others, for each candidate. */
function preferences(wins) {
  const strength = bradleyTerry(wins);
  return strength.map((mine, i) => {
    const others = strength.filter((_, j) => j !== i);
    return others.reduce((sum, other) => sum + mine / (mine + other), 0) / others.length;
  });
}

/** Votes [{left, right, winner}] of indices (winner null for no difference) as wins[i][j]. */
function winsOf(votes, count) {
  const wins = Array.from({ length: count }, () => Array(count).fill(0));
  for (const { left, right, winner } of votes) {
    if (winner === null) {
      wins[left][right] += 0.5;
      wins[right][left] += 0.5;
    } else wins[winner][winner === left ? right : left] += 1;
  }
  return wins;
}

/** Preference and its interval by the percentile bootstrap over votes: [{mean, low, high}]. */
function preferenceIntervals(votes, count) {
  const random = generator(1);
  const draws = Array.from({ length: RESAMPLES }, () =>
    preferences(winsOf(votes.map(() => votes[Math.floor(random() * votes.length)]), count)),
  );
  const rank = (share) => Math.min(RESAMPLES - 1, Math.round(share * (RESAMPLES - 1)));
  return preferences(winsOf(votes, count)).map((mean, i) => {
    const sorted = draws.map((draw) => draw[i]).sort((a, b) => a - b);
    return { mean, low: sorted[rank((1 - LEVEL) / 2)], high: sorted[rank((1 + LEVEL) / 2)] };
  });
}

/** Random numbers from a seed (mulberry32). */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
