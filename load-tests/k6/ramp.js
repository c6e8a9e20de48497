// A rate that grows to its double and falls again: does the gateway bend or break?
import { arriving, correctness, dropped, perKind, rate, seconds, summaryTrendStats, traffic } from "./traffic.js";

const third = `${Math.ceil(seconds(60) / 3)}s`;
export const options = {
  scenarios: {
    ramp: arriving([
      { target: Math.ceil(rate / 10), duration: "1s" },
      { target: rate, duration: third },
      { target: rate * 2, duration: third },
      { target: Math.ceil(rate / 10), duration: third },
    ]),
  },
  summaryTrendStats,
  thresholds: { ...correctness, ...perKind(200), ...dropped(rate) },
};
export default traffic;
