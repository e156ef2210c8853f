// A training in the background: begun and stopped by a button, followed while it runs.

import { ask } from "./ask.js";

const POLL = 2000;

export class TrainingStatus {
    // `on` has: shown(running, status); ended().
    constructor(on) {
        this.on = on;
        this.following = false;
    }

    // Begins, stops, or only looks.
    async tell(method) {
        const { running, status } = await ask("training", method);
        this.on.shown(running, status);
        if (running && !this.following) this.follow();
    }

    async follow() {
        this.following = true;
        try {
            let running = true;
            while (running) {
                await new Promise((resolve) => setTimeout(resolve, POLL));
                let status;
                ({ running, status } = await ask("training"));
                this.on.shown(running, status);
            }
        } finally {
            this.following = false;
        }
        this.on.ended();
    }
}
