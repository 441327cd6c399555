#!/usr/bin/env python3
"""Checks an OpenAPI document, and answers against it; see t/openapi.t.

    openapi.py DOCUMENT META ANSWERS

META is the JSON schema of OpenAPI documents, or empty.  ANSWERS holds one
JSON object a line: method, path (as in the document), status, type, headers,
body, sent (the request's body, or null).  Prints one line for each thing that
is wrong, and the operations and statuses that were seen.
"""

import json
import sys

import jsonschema

Validator = jsonschema.Draft202012Validator


def wrong(what, errors):
    for e in errors:
        at = "/".join(str(p) for p in e.absolute_path)
        print("wrong: %s: /%s: %s" % (what, at, e.message[:200]))


def resolve(document, thing):
    while "$ref" in thing:
        found = document

        for name in thing["$ref"][2:].split("/"):
            found = found[name]

        thing = found

    return thing


def references(document, thing):
    """All that $ref points to exists, and every schema is one."""

    if isinstance(thing, dict):
        if isinstance(thing.get("$ref"), str):
            try:
                resolve(document, thing)
            except (KeyError, TypeError):
                print("wrong: there is no %s" % thing["$ref"])

        for value in thing.values():
            references(document, value)

    elif isinstance(thing, list):
        for value in thing:
            references(document, value)


def check_document(document, meta):
    references(document, document)

    for name, schema in document["components"]["schemas"].items():
        try:
            Validator.check_schema(schema)
        except jsonschema.SchemaError as e:
            wrong("schema " + name, [e])

    ids = [o["operationId"] for _, _, o in operations(document)]

    for name in set(i for i in ids if ids.count(i) > 1):
        print("wrong: two operations are called " + name)

    used = json.dumps(document)

    for kind, things in document["components"].items():
        for name in things:
            if kind != "securitySchemes" and \
                    '"#/components/%s/%s"' % (kind, name) not in used:
                print("wrong: nobody uses %s/%s" % (kind, name))

    if meta:
        with open(meta) as f:
            wrong("document", Validator(json.load(f)).iter_errors(document))

        print("validated")


def operations(document):
    for path, item in document["paths"].items():
        for method, o in item.items():
            if method != "parameters":
                yield method.upper(), path, o


def validator(document, schema):
    return Validator(dict(schema, components=document["components"]),
                     format_checker=jsonschema.FormatChecker())


def check_parameters(document, path, item, operation, answer):
    known = {(p["in"], p["name"]): p for p in
             (resolve(document, p) for p in
              item.get("parameters", []) + operation.get("parameters", []))}

    for name in answer["query"]:
        if ("query", name) not in known:
            yield "its parameter %s is not known" % name

    for name in path.split("{")[1:]:
        if ("path", name.split("}")[0]) not in known:
            yield "path parameter %s is not known" % name


def check_answer(document, answer):
    method, path, status = answer["method"], answer["path"], answer["status"]
    what = "%s %s %d" % (method, path, status)

    try:
        item = document["paths"][path]
        operation = item["get" if method == "HEAD" else method.lower()]
    except KeyError:
        print("wrong: %s: no such operation" % what)
        return

    response = operation["responses"].get(str(status))

    if response is None:
        print("wrong: %s: no such status" % what)
        return

    response = resolve(document, response)
    print("seen: %s %s %d" % (method, path, status))

    if status < 400:
        for why in check_parameters(document, path, item, operation, answer):
            print("wrong: %s: %s" % (what, why))

    for name, header in response.get("headers", {}).items():
        value = answer["headers"].get(name.lower())

        if value is not None:
            wrong(what + " header " + name, validator(document,
                  resolve(document, header)["schema"]).iter_errors(value))
        elif name != "Idempotent-Replayed":
            print("wrong: %s: no header %s" % (what, name))

    if status < 300 and answer["sent"] is not None:
        media = operation["requestBody"]["content"].get(answer["sent_type"])

        if media is None:
            print("wrong: %s: it takes %s" % (what, answer["sent_type"]))
        elif answer["sent_type"] == "application/json":
            wrong(what + " request", validator(document, media["schema"])
                  .iter_errors(json.loads(answer["sent"])))

    content = response.get("content", {})

    if method == "HEAD" or not content:
        if answer["body"] != "":
            print("wrong: %s: a body" % what)
        return

    kind = answer["type"].split(";")[0]
    media = content.get(kind)

    if media is None:
        print("wrong: %s: Content-Type %s" % (what, answer["type"]))
        return

    body = answer["body"]

    if kind.endswith("json") and not kind.endswith("ndjson"):
        body = json.loads(body)

    wrong(what, validator(document, media["schema"]).iter_errors(body))


def main(document, meta, answers):
    with open(document) as f:
        document = json.load(f)

    check_document(document, meta)

    with open(answers) as f:
        for line in f:
            check_answer(document, json.loads(line))


main(*sys.argv[1:])
