// Two gateways on one Redis: each request goes to either of them, and a session is the same session on both.
import { arriving, correctness, dropped, perKind, rate, seconds, shuffled, summaryTrendStats } from "./traffic.js";

const arrivals = Math.ceil(rate / 2);
export const options = {
  scenarios: { fleet: arriving([{ target: arrivals, duration: `${seconds(30)}s` }]) },
  summaryTrendStats,
  thresholds: { ...correctness, ...perKind(200), ...dropped(arrivals * 0.5) },
};
export default shuffled;
