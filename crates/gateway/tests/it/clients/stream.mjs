// Streams one answer through the gateway with the SDK that is named, and prints what it says.

import { createRequire } from 'node:module';

// Warnings would be printed among the answers.
globalThis.AI_SDK_LOG_WARNINGS = false;

const require = createRequire(`${process.env.BUTTRESS_CLIENTS_NODE}/`);
const [name, url] = process.argv.slice(2);
const messages = [{ role: 'user', content: 'Hello' }];

async function* openai() {
  const { OpenAI } = require('openai');
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const stream = await client.chat.completions.create({ model: 'sim', messages, stream: true });
  for await (const chunk of stream) yield chunk.choices[0].delta.content ?? '';
}

async function* anthropic() {
  const { Anthropic } = require('@anthropic-ai/sdk');
  const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
  const stream = await client.messages.create({ model: 'sim', max_tokens: 10, messages, stream: true });
  for await (const event of stream) {
    if (event.type === 'content_block_delta') yield event.delta.text;
  }
}

async function* gemini() {
  const { GoogleGenAI } = require('@google/genai');
  const client = new GoogleGenAI({ apiKey: 'none', httpOptions: { baseUrl: url } });
  const stream = await client.models.generateContentStream({ model: 'sim', contents: 'Hello' });
  for await (const chunk of stream) yield chunk.text ?? '';
}

async function* ollama() {
  const { Ollama } = require('ollama');
  const client = new Ollama({ host: url });
  // It hands on what it does not know, to programs that look for it.
  const notice = (part) => (part.x_notice ? `[${part.x_notice.message}]` : '');
  const chat = await client.chat({ model: 'sim', messages, stream: true });
  for await (const part of chat) yield notice(part) + part.message.content;
  const completion = await client.generate({ model: 'sim', prompt: 'Hello', stream: true });
  for await (const part of completion) yield notice(part) + part.response;
}

async function* vercel(model) {
  const { streamText } = require('ai');
  const { fullStream } = streamText({ model, prompt: 'Hello', maxRetries: 0, onError() {} });
  for await (const part of fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') yield part.text;
  }
}

const sdks = {
  openai,
  anthropic,
  gemini,
  ollama,
  'vercel-openai': () => vercel(require('@ai-sdk/openai').createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' }).chat('sim')),
  'vercel-anthropic': () =>
    vercel(require('@ai-sdk/anthropic').createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none' })('sim')),
  'vercel-google': () =>
    vercel(require('@ai-sdk/google').createGoogleGenerativeAI({ baseURL: `${url}/v1beta`, apiKey: 'none' })('sim')),
};

try {
  for await (const text of sdks[name.replace('-error', '')]()) {
    if (!name.endsWith('-error')) process.stdout.write(text);
  }
} catch (error) {
  process.stdout.write(`raised: ${error.message ?? JSON.stringify(error)}`);
}
