// Errors that stay, and files that the browser does not play. Gradio runs this once, with `element` the block whose
// text the errors are.

const message = element.querySelector("p");

function say(text) {
    message.textContent = text;
}

// Gradio shows errors for some seconds in a corner, whether they come from the server, an upload or the line.
new MutationObserver((records) => {
    for (const node of records.flatMap((record) => [...record.addedNodes])) {
        const texts = [...(node.querySelectorAll?.("[data-testid=toast-text]") ?? [])];
        const errors = texts.filter((text) => text.matches(".error, .warning"));
        if (errors.length) say(errors.at(-1).textContent.trim());
    }
}).observe(document.body, { childList: true, subtree: true });

document.addEventListener("click", (event) => {
    if (event.target.closest("#find, #input, .gallery-item")) say("");
});

// A file that the browser plays goes Gradio's way. Any other would be called broken there: it is sent by the hidden
// upload, and the server returns a copy that plays.
const passed = new WeakSet();

async function plays(file) {
    const probe = document.createElement("video");
    if (!file.type.startsWith("video/") || !probe.canPlayType(file.type)) return false;
    const url = URL.createObjectURL(file);
    try {
        return await new Promise((resolve) => {
            probe.onloadeddata = () => resolve(probe.videoWidth > 0);
            probe.onerror = () => resolve(false);
            setTimeout(() => resolve(true), 5000);
            probe.muted = true;
            probe.preload = "auto";
            probe.src = url;
        });
    } finally {
        URL.revokeObjectURL(url);
    }
}

function send(file, input) {
    const files = new DataTransfer();
    files.items.add(file);
    passed.add(file);
    input.files = files.files;
    passed.add(input.files[0]);
    input.dispatchEvent(new Event("change", { bubbles: true }));
}

async function take(file) {
    const own = document.querySelector("#input input[type=file]");
    say("");
    if (own && (await plays(file))) return send(file, own);
    send(file, document.querySelector("input[data-testid='Any video-upload-button']"));
}

function intercept(event, file) {
    if (!file || passed.has(file) || !event.target.closest?.("#input")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    take(file);
}

document.addEventListener("change", (event) => intercept(event, event.target.files?.[0]), true);
document.addEventListener("drop", (event) => intercept(event, event.dataTransfer?.files?.[0]), true);
