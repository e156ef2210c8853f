// What each key does: the name of the deed, how the key is called, and what is said of it.

export const KEYS = {
    " ": ["play", "Space", "play, pause"],
    ",": ["frame-back", ",", "a frame back"],
    ".": ["frame-on", ".", "a frame on"],
    ArrowLeft: ["back", "\u2190", "a second back"],
    ArrowRight: ["on", "\u2192", "a second on"],
    "shift+ArrowLeft": ["far-back", "Shift+\u2190", "ten seconds back"],
    "shift+ArrowRight": ["far-on", "Shift+\u2192", "ten seconds on"],
    "[": ["slower", "[", "slower"],
    "]": ["faster", "]", "faster"],
    i: ["start", "i", "an action starts here"],
    o: ["end", "o", "it ends here"],
    "shift+I": ["move-start", "Shift+I", "the selected action starts here"],
    "shift+O": ["move-end", "Shift+O", "the selected action ends here"],
    Delete: ["delete", "Delete", "delete the selected action"],
    Backspace: ["delete", "Backspace", "the same"],
    "ctrl+z": ["undo", "Ctrl+Z", "undo"],
    "ctrl+shift+Z": ["redo", "Ctrl+Shift+Z", "redo"],
    "ctrl+y": ["redo", "Ctrl+Y", "the same"],
    ArrowUp: ["previous", "\u2191", "select the action before"],
    ArrowDown: ["next", "\u2193", "select the next action"],
    a: ["accept", "a", "accept the proposal that is chosen or, if none is, that at the player's time"],
    x: ["reject", "x", "reject it"],
    "shift+A": ["accept-all", "Shift+A", "accept all proposals that are shown"],
    g: ["next-ghost", "g", "the next proposal"],
    "shift+G": ["last-ghost", "Shift+G", "the one before"],
    Escape: ["leave", "Esc", "select nothing, forget the start"],
    "+": ["zoom-in", "+", "zoom in"],
    "=": ["zoom-in", "=", "the same"],
    "-": ["zoom-out", "-", "zoom out"],
    z: ["fit", "z", "the whole video"],
    f: ["finish", "f", "all actions are marked: to the video that is offered next"],
    n: ["next-video", "n", "the next video of the list"],
    p: ["last-video", "p", "the one before"],
};

// Where a shifted key is what it writes, as + is.
const plain = (key) => /^[^A-Za-z]$/.test(key);

// What the keys that are held down mean, if anything.
export function meaning(event) {
    const held = [event.ctrlKey || event.metaKey ? "ctrl+" : "", event.shiftKey && !plain(event.key) ? "shift+" : ""];
    return KEYS[held.join("") + event.key];
}
