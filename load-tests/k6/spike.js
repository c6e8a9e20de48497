// Quiet, then ten times as much from one second to the next, then quiet: is every answer right, and is it over at once?
import { arriving, correctness, dropped, rate, seconds, summaryTrendStats, traffic, within } from "./traffic.js";

const part = Math.ceil(seconds(30) / 3);
const quiet = Math.ceil(rate / 10);
const fixed = (target, start) => arriving([{ target, duration: `${part}s` }], { startTime: `${start}s`, gracefulStop: "2s" });
export const options = {
  scenarios: { before: fixed(quiet, 0), spike: fixed(rate, part), after: fixed(quiet, 2 * part) },
  summaryTrendStats,
  thresholds: {
    ...correctness,
    // Two seconds' worth: new callers are made while the first requests of the spike wait.
    ...dropped(rate * 2),
    "http_req_duration{scenario:before}": within(100),
    "http_req_duration{scenario:spike}": within(400),
    "http_req_duration{scenario:after}": within(100),
  },
};
export default traffic;
