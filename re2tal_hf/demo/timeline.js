// Draws the result in the browser. Gradio runs this once, with `element` the block, `props.value` what
// timeline_value() in timeline.py made, and `watch` to be told when it changes.
// Labels come from whoever trained the model: they are written as text, never as HTML.

const NUM_COLORS = 8;
const TICK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];

const video = element.querySelector("video");
const lanes = element.querySelector(".lanes");
const rows = element.querySelector(".rows");
const now = element.querySelector(".now");
const captions = video.addTextTrack("subtitles", "Actions");
captions.mode = "showing";

let result = null;
let shown = [];

function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
}

function clock(seconds, digits = 0) {
    const whole = Math.floor(seconds / 60);
    const rest = (seconds - 60 * whole).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    return `${whole}:${rest}`;
}

// Points in time start where they end, and are named for a second.
const until = (row) => (row.end > row.start ? row.end : row.start + 1);

function playFrom(seconds) {
    video.currentTime = seconds;
    video.play().catch((error) => {
        // A click that comes before the last one has started to play interrupts it.
        if (error.name !== "AbortError") throw error;
    });
}

function makeBar(row, color) {
    const bar = make("button", "bar");
    bar.type = "button";
    bar.style.left = `${(100 * row.start) / result.duration}%`;
    bar.style.width = `${(100 * (row.end - row.start)) / result.duration}%`;
    bar.style.setProperty("--lane", `var(--lane-${color})`);
    bar.style.setProperty("--score", (0.15 + 0.85 * row.score).toFixed(3));
    const end = row.end > row.start ? ` to ${row.end.toFixed(2)}` : "";
    const description = `${row.label}, ${row.start.toFixed(2)}${end} s, score ${row.score.toFixed(2)}`;
    bar.title = description;
    bar.setAttribute("aria-label", `Play ${description}`);
    bar.addEventListener("click", (event) => {
        event.stopPropagation();
        playFrom(row.start);
    });
    return bar;
}

function makeLane(label, color) {
    const lane = make("div", "lane");
    const name = make("span", "name", label);
    name.title = label;
    const track = make("div", "track");
    track.addEventListener("click", (event) => {
        const box = track.getBoundingClientRect();
        video.currentTime = (result.duration * (event.clientX - box.left)) / box.width;
    });
    // The strongest come last: on top of those that they overlap.
    const bars = shown.filter((row) => row.label === label).sort((a, b) => a.score - b.score);
    track.append(...bars.map((row) => makeBar(row, color)));
    lane.append(name, track);
    return lane;
}

function makeAxis() {
    const axis = make("div", "axis");
    axis.setAttribute("aria-hidden", "true");
    const most = Math.max(2, Math.floor(lanes.clientWidth / 90));
    const step = TICK_STEPS.find((seconds) => result.duration / seconds <= most) ?? 7200;
    for (let seconds = 0; seconds < result.duration - step / 3; seconds += step) {
        const tick = make("span", "tick", clock(seconds));
        tick.style.left = `${(100 * seconds) / result.duration}%`;
        axis.append(tick);
    }
    return axis;
}

function drawLanes() {
    const labels = result.labels.filter((label) => shown.some((row) => row.label === label));
    lanes.replaceChildren(...labels.map((label) => makeLane(label, result.labels.indexOf(label) % NUM_COLORS)));
    if (labels.length) {
        lanes.append(makeAxis(), make("div", "playhead"));
    } else {
        const [best] = result.detections;
        const text = best
            ? `No action here: the best score is ${best.score.toFixed(2)}, of ${best.label}. Lower the threshold or tick more classes.`
            : "No action was found.";
        lanes.append(make("p", "nothing", text));
    }
}

function makeRow(row) {
    const line = make("tr");
    const start = make("button", "row-start", row.start.toFixed(2));
    start.type = "button";
    start.setAttribute("aria-label", `Play ${row.label} from ${row.start.toFixed(2)} s`);
    start.addEventListener("click", () => playFrom(row.start));
    const cells = [start, row.end.toFixed(2), row.label, row.score.toFixed(2)].map((content) => {
        const cell = make("td");
        cell.append(content);
        return cell;
    });
    line.append(...cells);
    return line;
}

function drawTable() {
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const title of ["Start (s)", "End (s)", "Label", "Score"]) {
        const cell = make("th", "", title);
        cell.scope = "col";
        head.append(cell);
    }
    table.createTBody().append(...shown.map(makeRow));
    rows.replaceChildren(table);
}

function setCaptions() {
    for (const cue of [...(captions.cues ?? [])]) captions.removeCue(cue);
    for (const row of shown) {
        const text = `${row.label} ${row.score.toFixed(2)}`.replace(/&/g, "&amp;").replace(/</g, "&lt;");
        captions.addCue(new VTTCue(row.start, until(row), text));
    }
}

function follow() {
    if (!result) return;
    const time = video.currentTime;
    lanes.style.setProperty("--time", Math.min(1, time / result.duration));
    const current = shown.map((row) => row.start <= time && time < until(row));
    [...rows.querySelectorAll("tbody tr")].forEach((line, index) => line.setAttribute("aria-current", current[index]));
    const names = shown.filter((_, index) => current[index]).map((row) => `${row.label} ${row.score.toFixed(2)}`);
    now.textContent = `${clock(time, 1)} / ${clock(result.duration, 1)}  ${names.join(" · ")}`;
}

function followWhilePlaying() {
    follow();
    if (!video.paused) requestAnimationFrame(followWhilePlaying);
}

function show(threshold, labels) {
    if (!result) return;
    shown = result.detections
        .filter((row) => row.score >= threshold && labels.includes(row.label))
        .sort((a, b) => a.start - b.start || a.end - b.end);
    drawLanes();
    drawTable();
    setCaptions();
    follow();
}

function load() {
    result = props.value;
    if (!result) return;
    if (video.getAttribute("src") !== result.video.url) video.src = result.video.url;
    show(result.threshold, result.ticked);
}

video.addEventListener("play", followWhilePlaying);
for (const name of ["seeking", "timeupdate"]) video.addEventListener(name, follow);
element.closest("#timeline").addEventListener("filter", (event) => show(event.detail.threshold, event.detail.labels));
watch("value", load);
load();
