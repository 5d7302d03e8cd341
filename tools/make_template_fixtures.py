#!/usr/bin/env python3
"""Makes what the chat-template tests expect, with jinja2 set up as transformers sets it up.

    python3 -m venv build/venv-jinja && build/venv-jinja/bin/pip install jinja2==3.1.6
    build/venv-jinja/bin/python tools/make_template_fixtures.py [--seed 1]

Reads  tests/fixtures/templates/*.jinja (one per model family, as the model files carry them).
Writes tests/fixtures/templates/cases.json: per family its tokens and conversations, with the prompt
       or null where jinja2 raises; and exprs.json: small templates, each with its output or null.
Nothing depends on the machine or the time: strftime_now is given a fixed time, and the seed only
chooses the random conversations at the end of each family's list.
"""

import argparse
import copy
import datetime
import json
import pathlib
import random

import jinja2
import jinja2.ext
import jinja2.sandbox

from template_exprs import EXPRS, VARS

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/templates"
NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)


class Generation(jinja2.ext.Extension):
    """{% generation %} as transformers has it: its body, as a call block."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_support")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(lineno)

    def _support(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(env, source, variables):
    """The text, or None where jinja2 or Python raises."""
    try:
        return env.from_string(source).render(**variables)
    except Exception:  # a TypeError from Python is as much a refusal as a TemplateError
        return None


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather "now" at a place, in °C',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City & country"},
                "days": {"type": "integer", "minimum": 0, "enum": [1, 3, 7]},
                "exact": {"type": "boolean", "default": False, "threshold": 0.25},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time",
        "parameters": {"type": "object", "properties": {}},
    },
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def call(name, arguments):
    return {"id": "call12345", "type": "function",
            "function": {"name": name, "arguments": arguments}}


def calls(*items, content=""):
    return {"role": "assistant", "content": content, "tool_calls": list(items)}


def result(text, name="get_weather"):
    return {"role": "tool", "name": name, "tool_call_id": "call12345", "content": text}


PLAIN = {
    "one": [user("Hello")],
    "system": [system("Be brief."), user("Hello")],
    "turns": [user("Hi"), assistant("Hello! How can I help?"), user("Tell me a joke.")],
    "system-turns": [
        system("You are a pirate.\nSay arr."),
        user("Hi"),
        assistant("Arr!"),
        user("Where to?"),
        assistant("To sea."),
        user("Now?"),
    ],
    "unicode": [system("日本語で。"), user("Größe? 🦊 «ça va»\u00a0"), assistant("はい。"), user("Ω≈ç√")],
    "quotes": [user("It's \"quoted\" and 'single' \\ {{ not jinja }} {% x %} <b>&amp;</b>")],
    "newlines": [user("\n  a\n\n b\t\n"), assistant("  x \n\n"), user("\r\nend  ")],
    "empty": [system(""), user(""), assistant(""), user("")],
    "special": [user("<|im_end|>[INST]</s><|eot_id|><end_of_turn>")],
    "thinking": [
        user("2+2?"),
        assistant("<think>\nlet me see\n</think>\n\nFour."),
        user("And 3+3?"),
        assistant("<think>\nhm\n</think>\n\nSix."),
    ],
    "assistant-last": [user("Say a"), assistant("a")],
    "assistant-null": [user("Say nothing"), assistant(None), user("Thanks")],
    "two-users": [user("a"), user("b")],
    "assistant-first": [assistant("Welcome."), user("Hi")],
    "late-system": [user("a"), assistant("b"), system("c"), user("d")],
    "bad-role": [{"role": "robot", "content": "x"}],
    "none": [],
}
TOOLS = {
    "tools-one": [user("Weather in Köln?")],
    "tools-system": [system("Use tools."), user("Weather in Köln?")],
    "tools-call": [user("Weather?"), calls(call("get_weather", {"place": "Köln", "days": 3}))],
    "tools-result": [
        system("Use tools."),
        user("Weather?"),
        calls(call("get_weather", {"place": "Köln", "days": 3, "exact": True})),
        result('{"t": 21.5, "sky": "clear"}'),
    ],
    "tools-round": [
        user("Weather?"),
        calls(call("get_weather", {"place": "O'Hara \"x\"\n"})),
        result("21"),
        assistant("It is 21 degrees."),
        user("Thanks"),
    ],
    "tools-two": [
        user("Weather and time?"),
        calls(call("get_weather", {"place": "Oslo"}), call("clock", {})),
        result("5"),
        result("12:00", "clock"),
    ],
    "tools-null": [
        user("Now?"),
        calls(call("clock", {}), call("clock", {}), content=None),
        result("12:00", "clock"),
    ],
    "tools-content": [user("x"), calls(call("clock", {}), content="Let me look.")],
}

# template: bos, eos, keyword arguments of more conversations
FAMILIES = {
    "llama2": ("<s>", "</s>", []),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", []),
    "llama31": ("<|begin_of_text|>", "<|eot_id|>",
                [{"tools_in_user_message": False}, {"date_string": "1 Jan 2025"},
                 {"builtin_tools": ["wolfram_alpha", "code_interpreter"]}]),
    "llama32": ("<|begin_of_text|>", "<|eot_id|>",
                [{"tools_in_user_message": False}, {"date_string": "1 Jan 2025"}]),
    "chatml": ("<s>", "</s>", []),
    "smollm": ("<|im_start|>", "<|im_end|>", []),
    "smollm2": ("<|im_start|>", "<|im_end|>", []),
    "mistral1": ("<s>", "</s>", []),
    "mistral3": ("<s>", "</s>", []),
    "mistral_nemo": ("<s>", "</s>", []),
    "zephyr": ("<s>", "</s>", []),
    "tinyllama": ("<s>", "</s>", []),
    "qwen2": (None, "<|im_end|>", []),
    "qwen25": (None, "<|im_end|>", []),
    "qwen3": (None, "<|im_end|>", [{"enable_thinking": False}, {"enable_thinking": True}]),
    "deepseek_v2": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", []),
    "deepseek_v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", []),
    "deepseek_r1": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", []),
    "gemma": ("<bos>", "<eos>", []),
    "gemma3": ("<bos>", "<eos>", []),
    "phi3": ("<s>", "<|endoftext|>", []),
    "phi35": ("<s>", "<|endoftext|>", []),
    "phi4": (None, "<|im_end|>", []),
    "command_r": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", []),
    "hermes2": (None, "<|im_end|>", []),
    "vicuna": ("<s>", "</s>", []),
    "falcon": (None, "<|endoftext|>", []),
    "granite3": (None, "<|end_of_text|>", []),
    "olmo2": ("<|endoftext|>", "<|endoftext|>", []),
    "openchat": ("<s>", "<|end_of_turn|>", []),
    "stablelm": ("<|endoftext|>", "<|endoftext|>", []),
    "generation": ("<s>", "</s>", []),
}


def random_conversation(rng):
    pieces = ["a", "Ä", " ", "\n", "'", '"', "<", "日", "🦊", "{", "}", "%", "\\", "<|im_end|>",
              "</think>", "\t", "word ", "\u00a0", "\u2028"]
    text = lambda: "".join(rng.choice(pieces) for _ in range(rng.randrange(12)))
    messages = [system(text())] if rng.random() < 0.4 else []
    for _ in range(rng.randrange(1, 4)):
        messages += [user(text()), assistant(text())]
    return messages[: len(messages) - rng.randrange(2)]


NEEDLE = "duetto-needle"


def wishes(env, source, bos, eos):
    """What api/template.c finds out by the same trials: (content as parts only, arguments as text
    only, null content is fine, null content beside tool calls is fine)."""
    def prompt(messages):
        return render(env, source, {"messages": messages, "tools": None, "documents": None,
                                    "add_generation_prompt": False, "bos_token": bos or "",
                                    "eos_token": eos or ""})

    def trial(messages):
        return NEEDLE in (prompt(messages) or "")

    def clean(messages):
        text = prompt(messages)
        return text is not None and "None" not in text

    part = [{"type": "text", "text": NEEDLE}]
    parts = not trial([user(NEEDLE)]) and trial([user(part)])
    args = {"a": NEEDLE}
    text = not trial([user("x"), calls(call("f", args))]) and trial(
        [user("x"), calls(call("f", json.dumps(args)))]
    )
    alone = clean([user("x"), assistant(None)]) or not clean([user("x"), assistant("")])
    a_call = call("f", json.dumps(args) if text else args)
    beside = clean([user("x"), calls(a_call, content=None)]) or not clean([user("x"), calls(a_call)])
    return parts, text, alone, beside


def as_wished(messages, parts, text_arguments, null_alone, null_beside):
    messages = json.loads(json.dumps(messages))
    for m in messages:
        if m.get("content", "") is None and not (null_beside if m.get("tool_calls") else null_alone):
            m["content"] = ""
        if parts and isinstance(m.get("content"), str):
            m["content"] = [{"type": "text", "text": m["content"]}]
        for c in m.get("tool_calls", []):
            if text_arguments:
                f = c["function"]
                f["arguments"] = json.dumps(f["arguments"], ensure_ascii=False,
                                            separators=(",", ":"))
    return messages


def family_cases(env, name, bos, eos, kwargs, rng, folder=HERE):
    source = (folder / f"{name}.jinja").read_bytes().decode("utf-8")
    wish = wishes(env, source, bos, eos)
    jobs = [(n, m, None, {}, True) for n, m in PLAIN.items()]
    jobs += [(n + "-closed", PLAIN[n], None, {}, False) for n in ("turns", "assistant-last")]
    if "tool" in source:
        jobs += [(n, m, [WEATHER, CLOCK], {}, True) for n, m in TOOLS.items()]
        jobs.append(("tools-absent", TOOLS["tools-round"], None, {}, True))
    for i, kw in enumerate(kwargs):
        jobs.append((f"kwargs-{i}", PLAIN["system-turns"], None, kw, True))
        jobs.append((f"kwargs-tools-{i}", TOOLS["tools-system"], [WEATHER], kw, True))
    jobs += [(f"random-{i}", random_conversation(rng), None, {}, True) for i in range(4)]
    cases = []
    for case, messages, tools, kw, generate in jobs:
        tokens = {k: v for k, v in (("bos_token", bos), ("eos_token", eos)) if v is not None}
        wished = as_wished(messages, *wish)
        if "strftime_now" in source:  # the test must not depend on the day
            kw = {"date_string": "26 Jul 2024", **kw}
        text = render(env, source, {"messages": wished, "tools": tools, "documents": None,
                                    "add_generation_prompt": generate, **tokens, **kw})
        cases.append({"name": case, "messages": messages, "tools": tools, "kwargs": kw,
                      "generate": generate, "expected": text})
    names = ("parts", "text_arguments", "null_alone", "null_beside_calls")
    return {"template": name, "bos": bos, "eos": eos, **dict(zip(names, wish)), "cases": cases}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=0) + "\n"
    (HERE / name).write_text(text, encoding="utf-8", newline="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    env = environment()
    families = []
    for name, (bos, eos, kwargs) in FAMILIES.items():
        families.append(family_cases(env, name, bos, eos, kwargs, random.Random(args.seed)))
        good = sum(c["expected"] is not None for c in families[-1]["cases"])
        print(f"{name}: {good} of {len(families[-1]['cases'])} conversations render")
    write("cases.json", families)
    exprs = [{"src": s, "expected": render(env, s, copy.deepcopy(VARS))} for s in EXPRS]
    good = sum(e["expected"] is not None for e in exprs)
    print(f"exprs: {good} of {len(exprs)} render")
    write("exprs.json", {"vars": VARS, "exprs": exprs})


if __name__ == "__main__":
    main()
