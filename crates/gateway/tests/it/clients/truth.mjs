// Asks the gateway for each kind of answer with each SDK, streaming. Prints what each made of it, as JSON: by SDK and kind, the
// text, whether it raised, and the status and code that it found in the error.

import { createRequire } from 'node:module';

// Warnings would be printed among the answers.
globalThis.AI_SDK_LOG_WARNINGS = false;

const require = createRequire(`${process.env.BUTTRESS_CLIENTS_NODE}/`);
const { OpenAI } = require('openai');
const { default: Anthropic } = require('@anthropic-ai/sdk');
const { GoogleGenAI } = require('@google/genai');
const { streamText } = require('ai');
const { createOpenAI } = require('@ai-sdk/openai');
const { createAnthropic } = require('@ai-sdk/anthropic');
const { createGoogleGenerativeAI } = require('@ai-sdk/google');

const [url, ...kinds] = process.argv.slice(2);
const messages = [{ role: 'user', content: 'Hello' }];
const openai = defaultHeaders => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0, defaultHeaders });
const of = (create, base, headers) => create({ baseURL: `${url}/${base}`, apiKey: 'none', headers });

async function* vercel(model) {
  const { fullStream } = streamText({ model, prompt: 'Hello', maxRetries: 0, onError() {} });
  for await (const part of fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') yield part.text;
  }
}

const sdks = {
  async *openai(headers) {
    const stream = await openai(headers).chat.completions.create({ model: 'sim', messages, stream: true });
    // Of the first of several answers.
    for await (const { choices: [choice] } of stream) if (choice.index === 0) yield choice.delta.content ?? '';
  },
  async *'openai-responses'(headers) {
    const stream = await openai(headers).responses.create({ model: 'sim', input: 'Hello', stream: true });
    for await (const event of stream) if (event.type === 'response.output_text.delta') yield event.delta;
  },
  async *anthropic(defaultHeaders) {
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0, defaultHeaders });
    const stream = await client.messages.create({ model: 'sim', max_tokens: 10, messages, stream: true });
    for await (const event of stream) if (event.type === 'content_block_delta') yield event.delta.text;
  },
  async *gemini(headers) {
    const client = new GoogleGenAI({ apiKey: 'none', httpOptions: { baseUrl: url, headers } });
    const stream = await client.models.generateContentStream({ model: 'sim', contents: 'Hello' });
    for await (const chunk of stream) yield chunk.text ?? '';
  },
  'vercel-openai': headers => vercel(of(createOpenAI, 'v1', headers).chat('sim')),
  'vercel-responses': headers => vercel(of(createOpenAI, 'v1', headers).responses('sim')),
  'vercel-anthropic': headers => vercel(of(createAnthropic, 'v1', headers)('sim')),
  'vercel-google': headers => vercel(of(createGoogleGenerativeAI, 'v1beta', headers)('sim')),
};

async function made(stream) {
  let text = '';
  try {
    for await (const piece of stream) text += piece;
    return { text, raised: null };
  } catch (error) {
    const status = error.status ?? error.statusCode;
    const code = error.code ?? error.error?.error?.type ?? error.data?.error?.code;
    return { text, raised: `${error.name}: ${error.message ?? JSON.stringify(error)}`, status, code };
  }
}

const all = {};
for (const [name, ask] of Object.entries(sdks)) {
  all[name] = {};
  for (const kind of kinds) all[name][kind] = await made(ask({ 'x-says': kind }));
}
console.log(JSON.stringify(all));
