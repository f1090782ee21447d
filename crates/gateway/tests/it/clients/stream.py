"""Streams one answer through the gateway with the SDK that is named, and prints what it says."""

import sys

name, url = sys.argv[1:]
question = [{"role": "user", "content": "Hello"}]

if name == "openai":
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for chunk in client.chat.completions.create(model="sim", messages=question, stream=True,
                                                extra_headers={"x-fault": "head=1s; gap=300ms; chunks=5"}):
        print(chunk.choices[0].delta.content or "", end="")
elif name == "openai-error":
    from openai import APIError, OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    try:
        for chunk in client.chat.completions.create(model="sim", messages=question, stream=True,
                                                    extra_headers={"x-fault": "gap=0s; close-after=3"}):
            pass
    except APIError as error:
        print(f"raised: {error.message}")
elif name == "openai-notices":
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for chunk in client.chat.completions.create(model="sim", messages=question, stream=True):
        notice = (chunk.model_extra or {}).get("x_notice")
        print(f"[{notice['message']}]" if notice else chunk.choices[0].delta.content or "", end="")
elif name.startswith("gemini"):
    from google import genai
    from google.genai import errors, types

    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=url))
    try:
        for chunk in client.models.generate_content_stream(model="sim", contents="Hello"):
            if name == "gemini":
                print(chunk.text or "", end="")
    except errors.APIError as error:
        print(f"raised: {error.message}")
elif name == "anthropic-error":
    from anthropic import APIError, Anthropic

    client = Anthropic(base_url=url, api_key="none", max_retries=0)
    try:
        for event in client.messages.create(model="sim", max_tokens=10, messages=question, stream=True):
            pass
    except APIError as error:
        print(f"raised: {error.message}")
elif name == "anthropic":
    from anthropic import Anthropic

    client = Anthropic(base_url=url, api_key="none", max_retries=0)
    with client.messages.stream(model="sim", max_tokens=10, messages=question) as stream:
        for text in stream.text_stream:
            print(text, end="")
elif name.startswith("ollama"):
    from ollama import Client, ResponseError

    try:
        for part in Client(host=url).chat(model="sim", messages=question, stream=True):
            # The notice is none of the members that the client knows; the text of its line is empty.
            if name == "ollama":
                print(part.message.content or "", end="")
        for part in Client(host=url).generate(model="sim", prompt="Hello", stream=True):
            if name == "ollama":
                print(part.response or "", end="")
    except ResponseError as error:
        print(f"raised: {error}")
