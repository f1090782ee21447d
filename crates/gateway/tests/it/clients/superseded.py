"""Sends four messages of one conversation, one soon after the other, with the SDK that is named and the retries that it makes
by itself. Prints what became of each, as JSON: the text, or "raised"."""

import asyncio
import importlib
import json
import sys

name, url = sys.argv[1:]
headers = {"x-chat": name}
# Before the first message: it takes a while.
sdk = importlib.import_module(name)


async def openai(client, content):
    messages = [{"role": "user", "content": content}]
    async for chunk in await client.chat.completions.create(model="sim", messages=messages, stream=True):
        yield chunk.choices[0].delta.content or ""


async def anthropic(client, content):
    messages = [{"role": "user", "content": content}]
    async for event in await client.messages.create(model="sim", max_tokens=10, messages=messages, stream=True):
        if event.type == "content_block_delta":
            yield event.delta.text


async def say(client, content):
    text = ""
    try:
        async for piece in {"openai": openai, "anthropic": anthropic}[name](client, content):
            text += piece
        return text
    except Exception:
        return "raised"


async def main():
    if name == "openai":
        client = sdk.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", default_headers=headers)
    else:
        client = sdk.AsyncAnthropic(base_url=url, api_key="none", default_headers=headers)
    answers = []
    for content in ["busy", "streams", "thinks", "newest"]:
        answers.append(asyncio.create_task(say(client, content)))
        await asyncio.sleep(0.6)
    print(json.dumps(await asyncio.gather(*answers)))


asyncio.run(main())
