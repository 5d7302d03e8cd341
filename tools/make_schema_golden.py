#!/usr/bin/env python3
"""Makes tests/fixtures/schemas.jsonl: random JSON Schemas, and texts that jsonschema says are valid by them or not.

    build/venv/bin/python tools/make_schema_golden.py [--seeds 300] [--first 0] [-o FILE]

A line is {"schema", "yes": [texts], "no": [texts]}.  tests/unit/test_schema.c holds the grammars against it.  What a
grammar is narrower in on purpose (docs/API.md, "Structured output") is not in the texts: members stand in the order of
the schema, and other ones behind them.
"""
import argparse
import json
import pathlib
import random
import re
import string

import jsonschema

NAMES = ["a", "ab", "abc", "b", "", "é", "aé", "x y", "q\"", "n\\"]
WORDS = ["", "a", "ab", "abc", "é", "😀", "\"", "\\", "\n", "x y", "2024-02-29", "yes", "no"]
NUMBERS = [0, 1, -1, 2, 7, 10, 99, 100, -100, 0.5, -0.5, 1.25, 9.75, 1000000]
PATTERNS = ["^a", "b$", "^[a-c]{1,3}$", "^(yes|no)$", "^\\d+$", "^x( y)?$", "a.c|^$"]


def pattern(validator, text, instance, schema):
    """As ECMAScript has it: $ is the end, never the line break in front of it, and classes are ASCII's."""
    if isinstance(instance, str) and not re.search(text.replace("$", r"\Z"), instance, re.ASCII):
        yield jsonschema.ValidationError("pattern")


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": pattern})


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.defs = {}

    def chance(self, p):
        return self.r.random() < p

    # ---- schemas ----

    def bounds(self):
        s, r = {}, self.r
        low, high = sorted(r.sample(NUMBERS, 2))
        if self.chance(0.7):
            s[r.choice(["minimum", "exclusiveMinimum"])] = low
        if self.chance(0.7):
            s[r.choice(["maximum", "exclusiveMaximum"])] = high
        return s

    def text(self):
        s, r = {"type": "string"}, self.r
        if self.chance(0.3):
            s["pattern"] = r.choice(PATTERNS)
        else:
            if self.chance(0.5):
                s["minLength"] = r.randint(0, 2)
            if self.chance(0.5):
                s["maxLength"] = r.randint(2, 4)
        return s

    def object(self, depth):
        r = self.r
        names = r.sample(NAMES, r.randint(0, 4))
        s = {"type": "object", "properties": {n: self.schema(depth - 1) for n in names}}
        s["required"] = [n for n in names if self.chance(0.4)]
        if self.chance(0.1):
            s["required"].append(r.choice([n for n in NAMES if n not in names]))
        s["additionalProperties"] = r.choice([False, False, True, self.schema(depth - 1)])
        return s

    def array(self, depth):
        r, s = self.r, {"type": "array"}
        if self.chance(0.4):
            s["prefixItems"] = [self.schema(depth - 1) for _ in range(r.randint(1, 3))]
        s["items"] = r.choice([self.schema(depth - 1), False if "prefixItems" in s else True])
        if self.chance(0.5):
            s["minItems"] = r.randint(0, 2)
        if self.chance(0.5):
            s["maxItems"] = r.randint(2, 4)
        if s["items"] is False:  # more than there can be would be refused
            s["minItems"] = min(s.get("minItems", 0), len(s["prefixItems"]))
        return s

    def schema(self, depth):
        r = self.r
        kinds = ["text", "number", "integer", "null", "boolean", "enum", "const", "any", "types"]
        if depth > 0:
            kinds += ["object", "object", "array", "array", "anyOf", "ref", "allOf"]
        kind = r.choice(kinds)
        if kind == "text":
            return self.text()
        if kind in ("number", "integer"):
            return {"type": kind, **self.bounds()}
        if kind in ("null", "boolean"):
            return {"type": kind}
        if kind == "enum":
            s = {"enum": [self.value(1) for _ in range(r.randint(1, 4))]}
            if self.chance(0.3):
                s["type"] = r.choice(["string", "integer", "number", ["null", "boolean", "object"]])
            if self.chance(0.2):
                s.update(r.choice([{"minLength": 2}, {"maxLength": 1}, {"minItems": 2}, self.bounds()]))
            return s
        if kind == "const":
            return {"const": self.value(1)}
        if kind == "any":
            return r.choice([True, {}, {"title": "anything"}])
        if kind == "types":
            return {"type": r.sample(["string", "integer", "null", "boolean", "array", "object"], 2)}
        if kind == "anyOf":
            return {"anyOf": [self.schema(depth - 1) for _ in range(r.randint(1, 3))]}
        if kind == "allOf":
            names = r.sample(NAMES, 4)
            return {"allOf": [{"type": "object", "properties": {n: self.schema(depth - 1) for n in part}, "additionalProperties": True}
                              for part in (names[:2],)]
                    + [{"properties": {n: self.schema(depth - 1) for n in names[2:]}, "required": names[3:]}]}
        if kind == "ref":
            name = "d%d" % r.randint(0, 2)
            if name not in self.defs:
                self.defs[name] = True
                self.defs[name] = self.schema(depth - 1)
            return {"$ref": "#/$defs/" + name}
        return self.object(depth) if kind == "object" else self.array(depth)

    # ---- values ----

    def value(self, depth):
        r = self.r
        kind = r.choice(["word", "word", "number", "bool", "null"] + (["list", "object"] if depth > 0 else []))
        if kind == "word":
            return r.choice(WORDS)
        if kind == "number":
            return r.choice(NUMBERS)
        if kind == "bool":
            return self.chance(0.5)
        if kind == "null":
            return None
        if kind == "list":
            return [self.value(depth - 1) for _ in range(r.randint(0, 3))]
        return {n: self.value(depth - 1) for n in r.sample(NAMES, r.randint(0, 3))}

    def word(self, s):
        words = [w for w in WORDS if Validator(s).is_valid(w)]
        if "pattern" in s or (words and self.chance(0.5)):
            return self.r.choice(words or WORDS)
        return "".join(self.r.choice(string.ascii_lowercase + "é") for _ in range(self.r.randint(s.get("minLength", 0), s.get("maxLength", 4))))

    def members(self, s, depth):
        """The schemas of an object's members, in the order in which they have to stand, what is required, and the others' schema."""
        of, required = dict(s.get("properties", {})), list(s.get("required", []))
        extra = s.get("additionalProperties", None)
        for part in s.get("allOf", []):
            more, also, e = self.members(part, depth)
            of.update(more)
            required += also
            extra = e if e is not None else extra
        for n in required:
            of.setdefault(n, extra if isinstance(extra, dict) else True)
        return of, required, extra

    def fill(self, s, depth):
        """A value that the schema is likely to allow."""
        r = self.r
        if s is True or s is False or not s:
            return self.value(1)
        if self.chance(0.06):  # no object: it might be valid, in another order
            return self.value(0)
        if "$ref" in s:
            return self.fill(self.defs[s["$ref"].split("/")[-1]], depth - 1) if depth > 0 else self.value(0)
        if "enum" in s:
            return r.choice(s["enum"])
        if "const" in s:
            return s["const"]
        if "anyOf" in s:
            return self.fill(r.choice(s["anyOf"]), depth)
        kind = s.get("type", "object" if "allOf" in s or "properties" in s else None)
        kind = r.choice(kind) if isinstance(kind, list) else kind
        if kind == "string":
            return self.word(s)
        if kind in ("number", "integer"):
            fit = [n for n in NUMBERS + list(range(-3, 12)) if Validator(s).is_valid(n)]
            return r.choice(fit or NUMBERS)
        if kind == "null":
            return None
        if kind == "boolean":
            return self.chance(0.5)
        if kind == "array":
            front = s.get("prefixItems", [])
            n = r.randint(s.get("minItems", 0), max(s.get("maxItems", len(front) + 2), s.get("minItems", 0)))
            n = n + r.choice([-1, 1]) if self.chance(0.1) else n
            return [self.fill(front[i] if i < len(front) else s.get("items", True), depth - 1) for i in range(max(n, 0))]
        if kind == "object":
            of, required, extra = self.members(s, depth)
            out = {n: self.fill(x, depth - 1) for n, x in of.items() if (n in required and self.chance(0.95)) or self.chance(0.5)}
            if self.chance(0.5 if extra else 0.1):
                out[r.choice(NAMES)] = self.fill(extra if isinstance(extra, dict) else True, depth - 1)
            return {n: out[n] for n in [*(n for n in of if n in out), *(n for n in out if n not in of)]}
        return self.value(1)


def texts_of(m, schema):
    check = Validator(schema)
    fixed = '"const"' in json.dumps(schema) or '"enum"' in json.dumps(schema)  # which have no white space in them
    yes, no = [], []
    for _ in range(40):
        v = m.fill(schema, 4)
        try:
            valid = check.is_valid(v)
        except RecursionError:
            continue
        text = json.dumps(v, ensure_ascii=False, separators=m.r.choice([(",", ":"), (",", ":") if fixed else (", ", ": ")]))
        to = yes if valid else no
        if text not in to and len(to) < 5 and len(text) < 200:
            to.append(text)
    return yes, no


def case(seed):
    m = Maker(seed)
    schema = True
    while schema is True or len(json.dumps(schema)) < 60:  # plain ones are parts of these
        schema = m.schema(3)
    if m.defs:
        schema = {**schema, "$defs": m.defs}
    yes, no = texts_of(m, schema)
    return {"schema": schema, "yes": yes, "no": no}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("-o", default=pathlib.Path(__file__).resolve().parents[1] / "tests/fixtures/schemas.jsonl")
    a = parser.parse_args()
    with open(a.o, "w", encoding="utf-8") as f:
        for seed in range(a.first, a.first + a.seeds):
            f.write(json.dumps(case(seed), ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
