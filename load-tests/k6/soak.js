// Half an hour (SOAK, in minutes) at a moderate rate. `load-tests/run soak` also looks at memory, descriptors and the log.
import { arriving, correctness, dropped, perKind, rate, summaryTrendStats, traffic } from "./traffic.js";

const minutes = Number(__ENV.SOAK || 30);
const moderate = Math.ceil(rate / 2);
export const options = {
  scenarios: { soak: arriving([{ target: moderate, duration: `${Math.ceil(minutes * 60)}s` }]) },
  summaryTrendStats,
  // One arrival in ten thousand may find the machine busy with something else.
  thresholds: { ...correctness, ...perKind(100), ...dropped(moderate * 0.5 + moderate * minutes * 0.006) },
};
export default traffic;
