// One agent sends nothing but what must be refused, as fast as it can; the others must not notice.
import { arriving, attack, correctness, dropped, rate, seconds, summaryTrendStats, traffic, within } from "./traffic.js";

const honest = Math.ceil(rate / 5);
const duration = `${seconds(30)}s`;
export const options = {
  scenarios: {
    honest: arriving([{ target: honest, duration }], { exec: "calls" }),
    attackers: { executor: "constant-vus", vus: 4, duration, exec: "attack" },
  },
  summaryTrendStats,
  thresholds: {
    ...correctness,
    ...dropped(honest),
    "http_req_duration{scenario:honest}": within(200),
    "http_reqs{scenario:attackers}": ["count>=100"],
  },
};
export { attack, traffic as calls };
