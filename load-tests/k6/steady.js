// One minute at a fixed rate of arrivals, however long answers take (so that a slow gateway cannot slow its own test).
import { correctness, handleSummary, perKind, summaryTrendStats, traffic } from "./traffic.js";

export { handleSummary };
const rate = Number(__ENV.RATE || 500);
export const options = {
  scenarios: {
    steady: {
      executor: "constant-arrival-rate",
      rate,
      timeUnit: "1s",
      duration: "60s",
      preAllocatedVUs: 20,
      maxVUs: 50,
    },
  },
  summaryTrendStats,
  // Arrivals that find no free caller are dropped: a few at the start are the machine's, more are the gateway's.
  thresholds: { ...correctness, ...perKind(100), dropped_iterations: [`count<${Math.ceil(rate * 0.5)}`] },
};
export default traffic;
