import { render } from "preact";
import { App } from "./app";
import { rememberDraft } from "./draft";
import { watchJobs } from "./jobs";
import { watchReadiness } from "./server";
import "./page.css";

rememberDraft();
render(<App />, document.getElementById("page")!);
void watchReadiness();
void watchJobs();
