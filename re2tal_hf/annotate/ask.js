// Requests to the server; what it says is wrong becomes an error.

export async function ask(address, method = "GET", sent = undefined) {
    const options = { method };
    if (sent !== undefined) {
        options.headers = { "Content-Type": "application/json" };
        options.body = JSON.stringify(sent);
    }
    let response;
    try {
        response = await fetch(`api/${address}`, options);
    } catch {
        throw new Error("re2tal annotate does not answer: is it still running?");
    }
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error ?? response.statusText);
    return answer;
}
