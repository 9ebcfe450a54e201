"""Checks the items of a Kubernetes List against the published definitions of their kinds; prints one error a line."""
import json, sys
import jsonschema

schema = json.load(open(sys.argv[1]))
names = {("batch/v1", "Job"): "io.k8s.api.batch.v1.Job", ("v1", "ConfigMap"): "io.k8s.api.core.v1.ConfigMap"}
for item in json.load(open(sys.argv[2]))["items"]:
    definition = names[item["apiVersion"], item["kind"]]
    validator = jsonschema.Draft7Validator({**schema, "$ref": "#/definitions/" + definition})
    for error in validator.iter_errors(item):
        print(item["kind"], "/".join(map(str, error.absolute_path)), error.message)
