import { render } from "preact";
import { App } from "./app";
import { watchJobs } from "./jobs";
import { watchReadiness } from "./server";
import "./page.css";

render(<App />, document.getElementById("page")!);
void watchReadiness();
void watchJobs();
