// Reads an answer with nothing but `fetch`, however often the connection is cut: what `DedupLayer::resumable` asks of a client.
// Prints how often it was answered, and the words.

const [url] = process.argv.slice(2);
const words = [];
let [answered, at, id] = [0, '/words', ''];
let request = { method: 'POST', body: 'hello', headers: { authorization: 'Bearer loop', 'idempotency-key': 'once' } };

for (;;) {
  try {
    const response = await fetch(url + at, request);
    if (response.status === 204) break;
    answered++;
    at = response.headers.get('content-location') ?? at;
    let rest = '';
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
      const events = (rest + piece).split('\n\n');
      rest = events.pop();
      for (const event of events) {
        id = event.match(/^id: (.*)$/m)?.[1] ?? id;
        words.push(...(event.match(/(?<=^data: ).+$/m) ?? []));
      }
    }
  } catch {
    // It was cut off. What has not come is still there.
  }
  request = { headers: { 'last-event-id': id } };
}
console.log(JSON.stringify({ answered, text: words.join(' ') }));
