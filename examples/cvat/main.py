"""A detector function of CVAT: each label of function.yaml is a phrase that the server points at.

nuclio calls `handler` with an image in base64 and a threshold; `reground serve` answers in the form
that CVAT reads. Only Python's own library is needed.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT_S = 110  # less than function.yaml's eventTimeout


def init_context(context):
    """Once for each worker: where the server is, and what it is asked."""
    labels = json.loads(os.environ["REGROUND_LABELS"])
    query = urllib.parse.urlencode([("labels", label) for label in labels])
    context.user_data.url = f"{os.environ['REGROUND_URL'].rstrip('/')}/cvat?{query}"
    context.user_data.headers = {"Content-Type": "application/json"}
    if key := os.environ.get("REGROUND_API_KEY"):
        context.user_data.headers["Authorization"] = f"Bearer {key}"


def handler(context, event):
    """The boxes in one image, or the status and the sentence with which the server refused."""
    asked = {name: event.body[name] for name in ("image", "threshold") if name in event.body}
    request = urllib.request.Request(
        context.user_data.url, json.dumps(asked).encode(), context.user_data.headers
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            status, body = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read().decode()
    except OSError as error:
        said = f"reground serve at {os.environ['REGROUND_URL']} does not answer: {error}"
        status, body = 502, json.dumps({"error": said})
    return context.Response(
        body=body, headers={}, content_type="application/json", status_code=status
    )
