// What the model proposes for the open video: asked for until it is there, shown as ghosts, saved only when accepted.

import { ask } from "./ask.js";

const POLL = 1000;
// A ghost that an action, or a better ghost, covers so well says nothing new.
const SAME = 0.5;

function tiou(one, other) {
    const common = Math.max(0, Math.min(one.end, other.end) - Math.max(one.start, other.start));
    return common / (one.end - one.start + other.end - other.start - common);
}

export class Proposals {
    // `on` has: arrived(), when there is something new.
    constructor(on) {
        this.on = on;
        this.rows = [];
        this.status = "";
        this.least = 0;
        // Whether actions of two classes do not happen together.
        this.oneAtAPlace = true;
        // By number of the video, for as long as the page is open.
        this.rejected = new Map();
    }

    async load(number) {
        this.number = number;
        this.rows = [];
        this.status = "The model looks at other videos first";
        while (this.number === number) {
            const found = await ask(`videos/${number}/proposals`);
            if (this.number !== number) return;
            if (found.ready) {
                this.rows = found.rows.filter((row) => row.start < row.end).sort((a, b) => a.start - b.start || a.end - b.end);
                this.status = found.error;
                this.on.arrived();
                return;
            }
            if (found.progress) this.status = `The model looks at this video: ${Math.round(100 * found.progress)}%`;
            this.on.arrived();
            await new Promise((resolve) => setTimeout(resolve, POLL));
        }
    }

    get refused() {
        return this.rejected.get(this.number) ?? new Set();
    }

    set refused(ghosts) {
        this.rejected.set(this.number, ghosts);
    }

    // Ghosts that say something that neither the actions nor better ghosts do, in order of their start.
    beside(actions) {
        const { refused } = this;
        const same = (one, other) => (this.oneAtAPlace || one.label === other.label) && tiou(one, other) >= SAME;
        const told = [...actions];
        const kept = new Set();
        for (const row of [...this.rows].sort((a, b) => b.score - a.score)) {
            if (row.score < this.least || refused.has(key(row)) || told.some((each) => same(each, row))) continue;
            kept.add(row);
            if (this.oneAtAPlace) told.push(row);
        }
        return this.rows.filter((row) => kept.has(row));
    }

    reject(row) {
        this.refused = new Set([...this.refused, key(row)]);
    }
}

function key({ start, end, label }) {
    return JSON.stringify([start, end, label]);
}
