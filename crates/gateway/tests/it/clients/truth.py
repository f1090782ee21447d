"""Asks the gateway for each kind of answer with each SDK, streaming. Prints what each made of it, as JSON: by SDK and kind, the
text, whether it raised, and the status and code that it found in the error."""

import json
import sys

from anthropic import Anthropic
from google import genai
from google.genai import types
from openai import OpenAI

url, kinds = sys.argv[1], sys.argv[2:]
question = [{"role": "user", "content": "Hello"}]


def openai(headers):
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers=headers)


def chat(headers):
    for chunk in openai(headers).chat.completions.create(model="sim", messages=question, stream=True):
        # Of the first of several answers.
        yield "".join(choice.delta.content or "" for choice in chunk.choices if choice.index == 0)


def responses(headers):
    for event in openai(headers).responses.create(model="sim", input="Hello", stream=True):
        if event.type == "response.output_text.delta":
            yield event.delta


def anthropic(headers):
    client = Anthropic(base_url=url, api_key="none", max_retries=0, default_headers=headers)
    for event in client.messages.create(model="sim", max_tokens=10, messages=question, stream=True):
        if event.type == "content_block_delta":
            yield event.delta.text


def gemini(headers):
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=url, headers=headers))
    for chunk in client.models.generate_content_stream(model="sim", contents="Hello"):
        yield chunk.text or ""


def made(stream):
    text = ""
    try:
        for piece in stream:
            text += piece
        return {"text": text, "raised": None}
    except Exception as error:
        # Google's errors have their status in `code`, and their name in `status`.
        code = getattr(error, "code", None)
        status = getattr(error, "status_code", code)
        body = getattr(error, "body", None)
        if code is None and isinstance(body, dict):
            code = (body.get("error") or {}).get("type")
        return {"text": text, "raised": f"{type(error).__name__}: {error}", "status": status, "code": code}


sdks = {"openai": chat, "openai-responses": responses, "anthropic": anthropic, "gemini": gemini}
print(json.dumps({name: {kind: made(ask({"x-says": kind})) for kind in kinds} for name, ask in sdks.items()}))
