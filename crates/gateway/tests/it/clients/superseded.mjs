// Sends four messages of one conversation, one soon after the other, with the SDK that is named and the retries that it makes
// by itself. Prints what became of each, as JSON: the text, or "raised".

import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

// Warnings would be printed among the answers.
globalThis.AI_SDK_LOG_WARNINGS = false;

const require = createRequire(`${process.env.BUTTRESS_CLIENTS_NODE}/`);
const [name, url] = process.argv.slice(2);
const headers = { 'x-chat': name };

async function* openai(content) {
  const { OpenAI } = require('openai');
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', defaultHeaders: headers });
  const messages = [{ role: 'user', content }];
  const stream = await client.chat.completions.create({ model: 'sim', messages, stream: true });
  for await (const chunk of stream) yield chunk.choices[0].delta.content ?? '';
}

async function* anthropic(content) {
  const { Anthropic } = require('@anthropic-ai/sdk');
  const client = new Anthropic({ baseURL: url, apiKey: 'none', defaultHeaders: headers });
  const messages = [{ role: 'user', content }];
  const stream = await client.messages.create({ model: 'sim', max_tokens: 10, messages, stream: true });
  for await (const event of stream) {
    if (event.type === 'content_block_delta') yield event.delta.text;
  }
}

async function* vercel(model, prompt) {
  const { streamText } = require('ai');
  const { fullStream } = streamText({ model, prompt, onError() {} });
  for await (const part of fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') yield part.text;
  }
}

const sdks = {
  openai,
  anthropic,
  'vercel-openai': (content) =>
    vercel(require('@ai-sdk/openai').createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none', headers }).chat('sim'), content),
  'vercel-anthropic': (content) =>
    vercel(require('@ai-sdk/anthropic').createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none', headers })('sim'), content),
};

async function say(content) {
  let text = '';
  try {
    for await (const piece of sdks[name](content)) text += piece;
    return text;
  } catch {
    return 'raised';
  }
}

// Loading takes a while: before the first message.
const packages = {
  openai: ['openai'],
  anthropic: ['@anthropic-ai/sdk'],
  'vercel-openai': ['ai', '@ai-sdk/openai'],
  'vercel-anthropic': ['ai', '@ai-sdk/anthropic'],
};
packages[name].forEach((module) => require(module));

const answers = [];
for (const content of ['busy', 'streams', 'thinks', 'newest']) {
  answers.push(say(content));
  await sleep(600);
}
console.log(JSON.stringify(await Promise.all(answers)));
