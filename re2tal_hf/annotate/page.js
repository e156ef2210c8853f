// Marking: the queue, edits with their undoing, saving after each of them, and keys.

import { ask } from "./ask.js";
import { KEYS, meaning } from "./keys.js";
import { Player } from "./player.js";
import { Proposals } from "./proposals.js";
import { Timeline, clock, make } from "./timeline.js";
import { TrainingStatus } from "./training.js";

const COLOURS = 8;
const POLL = 1500;
const find = (name) => document.getElementById(name);
const rows = document.querySelector("#actions tbody");

let state = null;
let video = null; // what the server says of the one that is open, and its number
let actions = [];
let labels = [];
let label = null;
let selected = null;
let pending = null;
let ghost = null; // of the proposals shown, the one that the keys mean
let undone = [];
let done = [];
let wanted = null; // the number of the video that is to be opened, or was
let loading = Promise.resolve();
let saving = Promise.resolve();
let unsaved = 0;

const timeline = new Timeline(find("timeline"), {
    seek: (time) => player.seek(time),
    select,
    drag,
    dragged: keepDrag,
    point,
    colour: (name) => `var(--class-${Math.max(0, labels.indexOf(name)) % COLOURS})`,
    strip: (times) => `api/videos/${video.number}/strip?times=${times.join(",")}`,
});

const player = new Player(find("player"), find("speed"), {
    moved(time, playing) {
        timeline.setTime(time, playing);
        find("clock").textContent = `${clock(time, 2)} / ${clock(video.duration, 2)}`;
    },
    shown: (playing) => (document.querySelector('[data-do="play"]').textContent = playing ? "Pause" : "Play"),
    failed: say,
});

const proposals = new Proposals({ arrived: draw });

const training = new TrainingStatus({
    shown(running, status) {
        document.querySelector('[data-do="train"]').hidden = running;
        document.querySelector('[data-do="stop-training"]').hidden = !running;
        find("trained").textContent = status;
    },
    // Its model proposes from now on.
    ended: () =>
        trying(async () => {
            await loadState();
            if (state.model) await proposals.load(video.number);
        }),
});

function say(text) {
    find("alert").textContent = text;
}

// Runs what may fail and shows why.
async function trying(work) {
    try {
        return await work();
    } catch (error) {
        say(error.message);
        return undefined;
    }
}

// ---- The queue

// One request after the other: an answer that comes late must not take the place of a newer one.
function loadState() {
    loading = loading.catch(() => {}).then(readState);
    return loading;
}

async function readState() {
    state = await ask(`state?order=${find("order").value}`);
    labels = [...new Set([...labels, ...state.labels])];
    label ??= labels[0] ?? null;
    find("folder").textContent = state.folder;
    find("count").textContent = `${state.videos.filter((each) => each.finished).length} of ${state.videos.length} finished`;
    find("proposals").hidden = find("offered").hidden = !state.model;
    find("proposals").title = state.model ?? "";
    drawQueue();
    drawClasses();
}

function drawQueue() {
    const lines = state.queue.map((number) => {
        const each = state.videos[number];
        const line = make("li", number === state.next ? "offered" : "");
        const button = make("button");
        button.type = "button";
        button.setAttribute("aria-current", number === video?.number);
        button.append(make("span", "", each.finished ? "\u2713" : "\u00b7"), make("span", "name", each.id));
        button.append(make("span", "", each.actions || ""));
        button.addEventListener("click", () => open(number));
        line.append(button);
        return line;
    });
    const top = find("videos").scrollTop;
    find("videos").replaceChildren(...lines);
    find("videos").scrollTop = top;
}

// The video so many places after the open one.
function along(by) {
    const { queue } = state;
    return queue[(queue.indexOf(video.number) + by + queue.length) % queue.length];
}

async function open(number) {
    wanted = number;
    await saving;
    const answer = await trying(() => ask(`videos/${number}`));
    if (!answer || wanted !== number) return;
    say("");
    video = { ...answer, number };
    actions = video.actions;
    [selected, pending, ghost, undone, done] = [null, null, null, [], []];
    find("title").textContent = video.id;
    find("saved").textContent = "";
    player.open(video);
    timeline.time = 0;
    timeline.load(video.duration);
    if (state.model) trying(() => proposals.load(number).then(loadState));
    drawQueue();
    document.querySelector('#videos [aria-current="true"]').scrollIntoView({ block: "nearest" });
    draw();
    play();
}

// Gives the player its file, as soon as there is one that it can play.
async function play() {
    const { number } = video;
    while (video.number === number && video.prepared < 1) {
        find("preparing").textContent = `A copy that browsers play is being written: ${Math.round(100 * video.prepared)}%`;
        await new Promise((resolve) => setTimeout(resolve, POLL));
        const answer = await trying(() => ask(`videos/${number}`));
        if (!answer) return;
        if (video.number === number) video.prepared = answer.prepared;
    }
    if (video.number !== number) return;
    find("preparing").textContent = "";
    player.play(`api/videos/${number}/media`);
}

// ---- Edits

function change(edit) {
    done.push({ actions, refused: proposals.refused });
    undone = [];
    put(edit(actions));
}

function put(changed) {
    actions = [...changed].sort((a, b) => a.start - b.start || a.end - b.end);
    if (!actions.includes(selected)) selected = null;
    draw();
    save();
}

function undo(from, to) {
    if (!from.length) return;
    to.push({ actions, refused: proposals.refused });
    const before = from.pop();
    proposals.refused = before.refused;
    if (before.actions === actions) draw();
    else put(before.actions);
}

function replaceAction(old, changed) {
    change((all) => all.map((each) => (each === old ? changed : each)));
    select(actions.find((each) => each === changed) ?? null);
}

function drag(action, side, time) {
    const least = 1 / video.frame_rate;
    const border = player.onFrame(time);
    const dragged = dragging ?? { from: action, before: { ...action } };
    dragging = dragged;
    action[side] = side === "start" ? Math.min(border, action.end - least) : Math.max(border, action.start + least);
    action[side] = Math.min(video.duration, Math.max(0, action[side]));
    player.seek(action[side]);
    draw();
}

let dragging = null;

// What was dragged was changed in place: what was before goes to the edits that can be undone.
function keepDrag(action) {
    const { before } = dragging;
    dragging = null;
    const changed = { ...action };
    Object.assign(action, before);
    replaceAction(action, changed);
}

function setBorder(side) {
    if (!selected) return;
    const changed = { ...selected, [side]: player.frame };
    if (changed.start < changed.end) replaceAction(selected, changed);
}

function markStart() {
    pending = player.frame;
    select(null);
}

function markEnd() {
    const end = player.frame;
    if (pending === null) return say("Mark the start first.");
    if (end <= pending) return say("The end must be after the start.");
    if (!label) {
        find("class-name").focus();
        return say("Name the class first.");
    }
    say("");
    const made = { start: pending, end, label };
    pending = null;
    change((all) => [...all, made]);
    return select(made);
}

function setClass(name) {
    label = name;
    if (selected && selected.label !== name) replaceAction(selected, { ...selected, label: name });
    draw();
}

// ---- Proposals

const shownGhosts = () => (video ? proposals.beside(actions) : []);

// The ghost that was chosen; else the best at the player's time.
function meant() {
    const ghosts = shownGhosts();
    if (ghosts.includes(ghost)) return ghost;
    const here = ghosts.filter((each) => each.start <= player.time && player.time <= each.end);
    return here.reduce((best, each) => (best && best.score >= each.score ? best : each), null);
}

function point(proposal) {
    selected = null;
    ghost = proposal;
    player.seek(proposal.start);
    draw();
}

function pointNext(by, from = meant()) {
    const ghosts = shownGhosts();
    const time = player.frame;
    const after = from ? (each) => each !== from && by * (each.start - from.start || each.end - from.end) > 0 : (each) => by * (each.start - time) > 0;
    const found = by > 0 ? ghosts.find(after) : ghosts.findLast(after);
    if (found) point(found);
}

// Puts ghosts among the actions, or away, and points to the next one.
function answer(accepted) {
    const proposal = meant();
    if (!proposal) return say("No proposal is here: choose one.");
    say("");
    if (accepted) change((all) => [...all, asAction(proposal)]);
    else {
        done.push({ actions, refused: proposals.refused });
        undone = [];
        proposals.reject(proposal);
    }
    ghost = null;
    draw();
    return pointNext(1, proposal);
}

function acceptAll() {
    const ghosts = shownGhosts();
    if (!ghosts.length) return;
    ghost = null;
    change((all) => [...all, ...ghosts.map(asAction)]);
}

const asAction = ({ start, end, label: name }) => ({ start: Math.max(0, start), end: Math.min(video.duration, end), label: name });

function setLeast() {
    proposals.least = Number(find("least").value);
    find("least-shown").textContent = proposals.least.toFixed(2);
    draw();
}

// ---- Saving

// One request after the other, each with the revision that the one before has made.
function save(finished = video.finished) {
    const saved = video;
    const sent = { actions: actions.map(({ start, end, label: name }) => ({ start, end, label: name })), finished };
    saved.finished = finished;
    unsaved += 1;
    find("saved").textContent = "Saving";
    saving = saving.then(async () => {
        const answer = await trying(() => ask(`videos/${saved.number}`, "PUT", { ...sent, revision: saved.revision }));
        unsaved -= 1;
        if (answer) saved.revision = answer.revision;
        if (!unsaved && saved === video) find("saved").textContent = answer ? "Saved" : "Not saved";
        if (!unsaved) await trying(loadState);
        return Boolean(answer);
    });
    return saving;
}

async function finish() {
    if (await save(true)) {
        const { next } = state;
        if (next !== null && next !== undefined) await open(next);
    }
}

// ---- Drawing

function select(action) {
    selected = action;
    if (action) [label, ghost] = [action.label, null];
    draw();
}

function neighbour(by) {
    if (!actions.length) return;
    const place = selected ? actions.indexOf(selected) + by : by > 0 ? 0 : actions.length - 1;
    const action = actions[Math.min(actions.length - 1, Math.max(0, place))];
    select(action);
    player.seek(action.start);
}

function draw() {
    if (!video) return;
    const ghosts = shownGhosts();
    timeline.show({ actions, selected, pending, ghosts, ghost: ghosts.includes(ghost) ? ghost : null });
    find("ghosts").textContent = ghosts.length;
    find("proposing").textContent = proposals.status;
    drawClasses();
    const lines = actions.map((action) => {
        const line = make("tr");
        line.setAttribute("aria-selected", action === selected);
        line.append(...[action.start.toFixed(2), action.end.toFixed(2), action.label].map((text) => make("td", "", text)));
        line.addEventListener("click", () => {
            select(action);
            player.seek(action.start);
        });
        return line;
    });
    rows.replaceChildren(...lines);
    const enabled = {
        delete: selected,
        undo: done.length,
        redo: undone.length,
        end: pending !== null,
        "accept-all": ghosts.length,
    };
    for (const [name, value] of Object.entries(enabled)) document.querySelector(`[data-do="${name}"]`).disabled = !value;
    player.follow();
}

function drawClasses() {
    const buttons = labels.map((name, place) => {
        const button = make("button", "", place < 9 ? `${place + 1} ${name}` : name);
        button.type = "button";
        button.style.setProperty("--class", `var(--class-${place % COLOURS})`);
        button.setAttribute("aria-pressed", name === label);
        button.addEventListener("click", () => setClass(name));
        return button;
    });
    find("classes").replaceChildren(...buttons);
}

// ---- Keys and buttons

const DO = {
    play: () => player.toggle(),
    "frame-back": () => player.step(-1),
    "frame-on": () => player.step(1),
    back: () => player.seek(player.time - 1),
    on: () => player.seek(player.time + 1),
    "far-back": () => player.seek(player.time - 10),
    "far-on": () => player.seek(player.time + 10),
    slower: () => player.faster(-1),
    faster: () => player.faster(1),
    start: markStart,
    end: markEnd,
    "move-start": () => setBorder("start"),
    "move-end": () => setBorder("end"),
    delete: () => selected && change((all) => all.filter((each) => each !== selected)),
    undo: () => undo(done, undone),
    redo: () => undo(undone, done),
    previous: () => neighbour(-1),
    next: () => neighbour(1),
    accept: () => answer(true),
    reject: () => answer(false),
    "accept-all": acceptAll,
    "next-ghost": () => pointNext(1),
    "last-ghost": () => pointNext(-1),
    leave: () => {
        [pending, ghost] = [null, null];
        select(null);
    },
    "zoom-in": () => timeline.zoom(2),
    "zoom-out": () => timeline.zoom(0.5),
    fit: () => timeline.fit(),
    finish,
    train: () => trying(() => training.tell("POST")),
    "stop-training": () => trying(() => training.tell("DELETE")),
    "next-video": () => open(along(1)),
    "last-video": () => open(along(-1)),
};

document.addEventListener("keydown", (event) => {
    if (!video || event.altKey || event.target.closest("input, select")) return;
    if ([" ", "Enter"].includes(event.key) && event.target.closest("button, a, summary")) return;
    if (/^[1-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey) {
        const name = labels[Number(event.key) - 1];
        if (name !== undefined) setClass(name);
        return;
    }
    const found = meaning(event);
    if (!found) return;
    event.preventDefault();
    DO[found[0]]();
});

for (const button of document.querySelectorAll("[data-do]")) {
    // The keys stay with the page.
    button.addEventListener("click", () => {
        DO[button.dataset.do]();
        button.blur();
    });
}
find("new-class").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = find("class-name").value.trim().replace(/\s+/g, " ");
    find("class-name").value = "";
    find("class-name").blur();
    if (!name) return;
    const known = labels.find((each) => each.toLowerCase() === name.toLowerCase());
    if (!known) labels.push(name);
    say("");
    setClass(known ?? name);
});
find("order").addEventListener("change", () => {
    find("order").blur();
    trying(loadState);
});
find("least").addEventListener("input", setLeast);
find("least").addEventListener("pointerup", () => find("least").blur());
find("one-at-a-place").addEventListener("change", () => {
    proposals.oneAtAPlace = find("one-at-a-place").checked;
    find("one-at-a-place").blur();
    draw();
});
find("format").addEventListener("change", () => (find("download").href = `api/download/${find("format").value}`));
window.addEventListener("beforeunload", (event) => unsaved && event.preventDefault());

for (const [, key, text] of Object.values(KEYS)) find("keys").append(make("dt", "", key), make("dd", "", text));
find("keys").append(make("dt", "", "1 to 9"), make("dd", "", "the class, of the selected action too"));

// At once: not again over a person who has opened it meanwhile.
if (window.innerWidth <= 700) find("queue").open = false;

await trying(async () => {
    await loadState();
    for (const [name, title] of Object.entries(state.formats)) find("format").append(new Option(title, name));
    find("format").dispatchEvent(new Event("change"));
    find("training").hidden = !state.trains;
    if (state.trains) await training.tell("GET");
    setLeast();
    find("one-at-a-place").dispatchEvent(new Event("change"));
    await open(state.next ?? 0);
});
