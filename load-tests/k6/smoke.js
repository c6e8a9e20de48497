// Ten seconds, two callers: is every answer right, allowed or refused? Part of `tests/run`.
import { correctness, handleSummary, perKind, summaryTrendStats, traffic } from "./traffic.js";

export { handleSummary };
export const options = {
  vus: 2,
  duration: "10s",
  summaryTrendStats,
  // Generous: a debug build on a busy machine must pass; what is tested here is right or wrong, not fast or slow.
  thresholds: { ...correctness, ...perKind(500), iterations: ["count>=200"] },
};
export default traffic;
