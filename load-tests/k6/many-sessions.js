// A few callers whose calls belong to any of very many sessions and agents: nothing is found in a cache by chance.
import { arriving, correctness, dropped, perKind, rate, seconds, shuffled, summaryTrendStats } from "./traffic.js";

export const options = {
  scenarios: { many: arriving([{ target: rate, duration: `${seconds(30)}s` }]) },
  summaryTrendStats,
  thresholds: { ...correctness, ...perKind(150), ...dropped(rate * 0.5) },
};
export default shuffled;
