#!/usr/bin/env python3
"""Holds JSON against a schema of an OpenAPI document. Run by tests/it/http.rs: the document's path, the schema's name;
the JSON comes by standard input, problems go to standard output."""

import json
import sys

from jsonschema import Draft202012Validator

document = json.load(open(sys.argv[1]))
schema = {"$ref": f"#/components/schemas/{sys.argv[2]}", "components": document["components"]}
Draft202012Validator.check_schema(schema)
for problem in Draft202012Validator(schema).iter_errors(json.load(sys.stdin)):
    print(f"{problem.json_path}: {problem.message[:200]}")
