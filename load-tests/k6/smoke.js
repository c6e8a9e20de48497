// Ten seconds, two callers: is every answer right, allowed or refused? Part of `tests/run`.
import { correctness, perKind, seconds, summaryTrendStats, traffic } from "./traffic.js";

const length = seconds(10);
export const options = {
  vus: 2,
  duration: `${length}s`,
  summaryTrendStats,
  // Generous: a debug build on a busy machine must pass; what is tested here is right or wrong, not fast or slow.
  thresholds: { ...correctness, ...perKind(500), iterations: [`count>=${20 * length}`] },
};
export default traffic;
