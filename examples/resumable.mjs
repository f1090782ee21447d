// Reads an answer to its end across broken connections, with only `fetch`: a complete client of `DedupLayer::resumable`
// (in the gateway: `--resumable on`). It repeats the request only if the first answer is a 5xx; otherwise the model is
// called once.
//
//   API_KEY=.. node examples/resumable.mjs http://127.0.0.1:8080/v1/chat/completions '{"model":"m","stream":true,"messages":[]}'

/** Yields each event of the answer to `request` once. Needs an `Idempotency-Key`, because it repeats a request without an answer or with a 5xx. */
async function* resumable(url, request) {
  for (let place = '', id = '', seen = 0, failed = 0; ; failed++) {
    let retryAfter = 0;
    try {
      const response = await fetch(new URL(place, url), place ? { headers: { 'last-event-id': id } } : request);
      if (response.status === 204) return; // Nothing is left to read.
      if (response.ok) place ||= response.headers.get('content-location');
      if (!response.ok || !place) {
        retryAfter = Number(response.headers.get('retry-after')) || 0;
        throw Object.assign(new Error(`no answer: ${response.status}`), { isFinal: response.status < 500 });
      }
      let nth = 0;
      for await (const event of events(response.body)) {
        if (!event.id && nth++ < seen) continue; // Without ids, as Gemini's, all of it comes again.
        [id, seen, failed] = [event.id ?? id, event.id ? seen : seen + 1, 0];
        yield event;
      }
      if (!id) return; // It ended, and has no ids to ask for more with.
    } catch (error) {
      if (error.isFinal || failed === 9) throw error; // Else it was cut off, and what has not come is still there.
    }
    await new Promise(wait => setTimeout(wait, Math.max(100 * failed, 1000 * retryAfter)));
  }
}

async function* events(body) {
  let rest = '';
  for await (const piece of body.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + piece).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/);
      const all = field => lines.filter(line => line.startsWith(field)).map(line => line.slice(field.length).replace(/^ /, ''));
      if (all('data:').length) yield { id: all('id:').at(-1), data: all('data:').join('\n') };
    }
  }
}

const [url, body] = process.argv.slice(2);
const headers = {
  authorization: `Bearer ${process.env.API_KEY}`,
  'content-type': 'application/json',
  'idempotency-key': crypto.randomUUID(),
};
for await (const { data } of resumable(url, { method: 'POST', headers, body })) console.log(data);
