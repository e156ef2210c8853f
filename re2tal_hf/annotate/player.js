// The player: the time in frames of the video that is open, steps, and speeds.

export class Player {
    // `speeds` is a list to choose from. `on` has: moved(time, playing), shown(playing), failed(message).
    constructor(element, speeds, on) {
        this.element = element;
        this.speeds = speeds;
        this.on = on;
        this.video = null;
        speeds.addEventListener("change", () => {
            this.setSpeed();
            speeds.blur();
        });
        element.addEventListener("play", () => {
            on.shown(true);
            this.followWhilePlaying();
        });
        element.addEventListener("pause", () => on.shown(false));
        element.addEventListener("click", () => this.toggle());
        element.addEventListener("error", () => element.getAttribute("src") && on.failed(`${this.video.id} does not play: ${element.error.message}`));
        for (const name of ["seeking", "seeked", "timeupdate", "loadedmetadata"]) element.addEventListener(name, () => this.follow());
    }

    get time() {
        return this.element.currentTime;
    }

    // The start of the frame that is shown.
    get frame() {
        return this.onFrame(this.time);
    }

    // What is open from now on, which has no file yet.
    open(video) {
        this.video = video;
        this.element.removeAttribute("src");
    }

    play(address) {
        this.element.src = address;
        this.setSpeed();
    }

    // The start of the frame that is shown at a time.
    onFrame(time) {
        const rate = this.video.frame_rate;
        return Math.max(0, Math.floor(time * rate + 1e-3) / rate);
    }

    seek(time) {
        const { duration, frame_rate: rate } = this.video;
        // The middle of a frame's time shows that frame however its start is rounded.
        this.element.currentTime = Math.min(duration, Math.max(0, this.onFrame(time) + 0.5 / rate));
        this.on.moved(this.time, true);
    }

    step(frames) {
        this.element.pause();
        this.seek(this.frame + (frames + 0.5) / this.video.frame_rate);
    }

    faster(by) {
        const list = this.speeds;
        list.selectedIndex = Math.min(list.length - 1, Math.max(0, list.selectedIndex + by));
        this.setSpeed();
    }

    setSpeed() {
        this.element.playbackRate = Number(this.speeds.value);
    }

    toggle() {
        if (this.element.paused) this.element.play().catch((error) => this.on.failed(`The video does not play: ${error.message}`));
        else this.element.pause();
    }

    follow() {
        if (this.video) this.on.moved(this.time, !this.element.paused);
    }

    followWhilePlaying() {
        this.follow();
        if (!this.element.paused) requestAnimationFrame(() => this.followWhilePlaying());
    }
}
