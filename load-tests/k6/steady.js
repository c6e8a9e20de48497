// One minute at a fixed rate of arrivals.
import { arriving, correctness, dropped, perKind, rate, seconds, summaryTrendStats, traffic } from "./traffic.js";

export const options = {
  scenarios: { steady: arriving([{ target: rate, duration: `${seconds(60)}s` }]) },
  summaryTrendStats,
  thresholds: { ...correctness, ...perKind(100), ...dropped(rate * 0.5) },
};
export default traffic;
