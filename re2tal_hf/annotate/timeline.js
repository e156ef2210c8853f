// The timeline: a part of the video's time with pictures, and actions, and above it the whole.

const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600];
const SHORTEST = 0.5;
const PICTURE_WIDTH = 96;
const ROW = 2.1;

export function clock(seconds, digits = 0) {
    const unit = 10 ** digits;
    const whole = Math.round(seconds * unit) / unit;
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60;
    const rest = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function make(tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
}

// For each action the first row in which none overlaps it; actions in order of their start.
function rowsOf(actions) {
    const ends = [];
    return actions.map(({ start, end }) => {
        const free = ends.findIndex((reached) => reached <= start);
        const row = free < 0 ? ends.length : free;
        ends[row] = end;
        return row;
    });
}

export class Timeline {
    // `on` has: seek(time), select(action), drag(action), dragged(action), point(ghost), colour(label),
    // strip(times), which gives the address of pictures.
    constructor(element, on) {
        this.on = on;
        this.duration = 0;
        this.time = 0;
        this.shown = { actions: [], selected: null, pending: null, ghosts: [], ghost: null };
        this.overview = make("div", "overview");
        this.view = make("div", "view");
        this.strip = make("img", "strip");
        this.strip.alt = "";
        this.strip.draggable = false;
        this.axis = make("div", "axis");
        this.own = make("div", "rows own");
        this.proposed = make("div", "rows proposed");
        this.playhead = make("div", "playhead");
        this.view.append(this.strip, this.axis, this.own, this.proposed, this.playhead);
        element.replaceChildren(this.overview, this.view);
        this.overview.addEventListener("pointerdown", (event) => this.pan(event));
        this.view.addEventListener("pointerdown", (event) => this.press(event));
        this.view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
        new ResizeObserver(() => this.draw()).observe(element);
    }

    load(duration) {
        this.duration = duration;
        this.fit();
    }

    fit() {
        this.from = 0;
        this.length = this.duration;
        this.draw();
    }

    show(shown) {
        this.shown = shown;
        this.draw();
    }

    share(seconds) {
        return (100 * (seconds - this.from)) / this.length;
    }

    timeAt(event) {
        const box = this.view.getBoundingClientRect();
        const time = this.from + (this.length * (event.clientX - box.left)) / box.width;
        return Math.min(this.duration, Math.max(0, time));
    }

    move(from) {
        this.from = Math.min(Math.max(0, from), this.duration - this.length);
        this.draw();
    }

    zoom(factor, about = this.time) {
        const length = Math.min(this.duration, Math.max(Math.min(SHORTEST, this.duration), this.length / factor));
        const inside = Math.min(1, Math.max(0, (about - this.from) / this.length));
        this.length = length;
        this.move(about - inside * length);
    }

    setTime(time, follow) {
        this.time = time;
        if (follow && (time < this.from || time > this.from + this.length)) this.move(time - 0.1 * this.length);
        this.playhead.style.left = `${this.share(time)}%`;
        this.drawPending();
    }

    wheel(event) {
        if (event.ctrlKey || event.metaKey) {
            event.preventDefault();
            this.zoom(Math.exp(-event.deltaY / 300), this.timeAt(event));
        } else if (event.deltaX || event.shiftKey) {
            event.preventDefault();
            this.move(this.from + ((event.deltaX || event.deltaY) / this.view.clientWidth) * this.length);
        }
    }

    // Calls `moved` with each place of the pointer until it is let go.
    follow(event, moved, ended = () => {}) {
        event.preventDefault();
        const target = event.currentTarget;
        const stop = new AbortController();
        target.setPointerCapture(event.pointerId);
        const end = (last) => {
            stop.abort();
            ended(last);
        };
        target.addEventListener("pointermove", moved, { signal: stop.signal });
        target.addEventListener("pointerup", end, { signal: stop.signal });
        target.addEventListener("pointercancel", end, { signal: stop.signal });
    }

    pan(event) {
        const centre = (moved) => {
            const box = this.overview.getBoundingClientRect();
            this.move((this.duration * (moved.clientX - box.left)) / box.width - this.length / 2);
        };
        centre(event);
        this.follow(event, centre);
    }

    press(event) {
        if (event.button || event.target.closest(".action, .ghost")) return;
        if (event.pointerType === "touch") {
            this.on.seek(this.timeAt(event));
            return;
        }
        this.on.seek(this.timeAt(event));
        this.follow(event, (moved) => this.on.seek(this.timeAt(moved)));
    }

    dragBorder(event, action, side) {
        event.stopPropagation();
        let moved = false;
        this.on.select(action);
        this.follow.call(
            this,
            { ...pointer(event), currentTarget: this.view },
            (now) => {
                moved = true;
                this.on.drag(action, side, this.timeAt(now));
            },
            () => moved && this.on.dragged(action),
        );
    }

    draw() {
        if (!this.duration) return;
        const { actions, selected, ghosts, ghost } = this.shown;
        this.drawOverview([...actions, ...ghosts.map((each) => ({ ...each, proposed: true }))]);
        this.drawAxis();
        this.fill(this.own, actions, (action) => this.makeAction(action, action === selected));
        this.proposed.hidden = !ghosts.length;
        this.fill(this.proposed, ghosts, (each) => this.makeGhost(each, each === ghost));
        this.setTime(this.time, false);
        clearTimeout(this.waiting);
        this.waiting = setTimeout(() => this.drawStrip(), 250);
    }

    fill(rows, actions, makeBar) {
        const places = rowsOf(actions);
        const bars = actions.flatMap((action, index) => {
            if (action.end < this.from || action.start > this.from + this.length) return [];
            const bar = makeBar(action);
            bar.style.left = `${this.share(action.start)}%`;
            bar.style.width = `${(100 * (action.end - action.start)) / this.length}%`;
            bar.style.top = `${0.1 + ROW * places[index]}rem`;
            bar.style.setProperty("--class", this.on.colour(action.label));
            return [bar];
        });
        rows.style.height = `${ROW * Math.max(1, ...places.map((place) => place + 1)) + 0.1}rem`;
        rows.replaceChildren(...bars);
    }

    makeAction(action, selected) {
        const bar = make("div", "action", action.label);
        bar.setAttribute("role", "button");
        bar.setAttribute("aria-pressed", selected);
        bar.title = `${action.label}, ${action.start.toFixed(2)} to ${action.end.toFixed(2)} s`;
        bar.addEventListener("pointerdown", (event) => {
            event.stopPropagation();
            this.on.select(action);
        });
        for (const side of ["start", "end"]) {
            const handle = make("span", `handle ${side}`);
            handle.addEventListener("pointerdown", (event) => this.dragBorder(event, action, side));
            bar.append(handle);
        }
        return bar;
    }

    makeGhost(proposal, chosen) {
        const text = `${proposal.label} ${proposal.score.toFixed(2)}`;
        const bar = make("div", "ghost", text);
        bar.setAttribute("role", "button");
        bar.setAttribute("aria-pressed", chosen);
        bar.title = `Proposed: ${text}, ${proposal.start.toFixed(2)} to ${proposal.end.toFixed(2)} s`;
        bar.addEventListener("pointerdown", (event) => {
            event.stopPropagation();
            this.on.point(proposal);
        });
        return bar;
    }

    drawOverview(marked) {
        const marks = marked.map((each) => {
            const mark = make("i", each.proposed ? "proposed" : "");
            mark.style.left = `${(100 * each.start) / this.duration}%`;
            mark.style.width = `${(100 * (each.end - each.start)) / this.duration}%`;
            mark.style.setProperty("--class", this.on.colour(each.label));
            return mark;
        });
        const window = make("div", "window");
        window.style.left = `${(100 * this.from) / this.duration}%`;
        window.style.width = `${(100 * this.length) / this.duration}%`;
        this.overview.replaceChildren(...marks, window);
    }

    drawAxis() {
        const most = Math.max(2, Math.floor(this.view.clientWidth / 80));
        const step = TICKS.find((seconds) => this.length / seconds <= most) ?? 7200;
        const ticks = [];
        const first = Math.ceil(this.from / step - 1e-6);
        for (let number = first; number * step < this.from + this.length - step / 4; number++) {
            const tick = make("span", "tick", clock(number * step, step < 1 ? 1 : 0));
            tick.style.left = `${this.share(number * step)}%`;
            ticks.push(tick);
        }
        this.axis.replaceChildren(...ticks);
    }

    drawStrip() {
        const count = Math.min(30, Math.max(1, Math.floor(this.view.clientWidth / PICTURE_WIDTH)));
        const times = [...Array(count).keys()].map((place) => this.from + (this.length * (place + 0.5)) / count);
        const address = this.on.strip(times.map((time) => time.toFixed(2)));
        if (this.strip.getAttribute("src") !== address) this.strip.src = address;
    }

    drawPending() {
        const { pending } = this.shown;
        let bar = this.own.querySelector(".pending");
        if (pending === null) return bar?.remove();
        if (!bar) {
            bar = make("div", "pending");
            bar.style.top = "0.1rem";
            this.own.append(bar);
        }
        bar.style.left = `${this.share(pending)}%`;
        bar.style.width = `${(100 * Math.max(0, this.time - pending)) / this.length}%`;
        return bar;
    }
}

// The handle is drawn anew while it is dragged: who follows the pointer is what stays.
function pointer(event) {
    return { pointerId: event.pointerId, preventDefault: () => event.preventDefault() };
}
