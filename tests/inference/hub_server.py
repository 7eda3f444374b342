"""As much of the Hugging Face Hub as a push needs, on this machine."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What arrived."""

    def __init__(self):
        self.address = ""
        self.refuse = None
        self.repositories = {}
        self.files = {}
        self.tokens = set()
        self.lfs = {}
        self.requests = []


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_POST(self):
        body = self._body()
        hub = self.hub
        hub.requests.append(f"POST {self.path}")
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuse is not None:
            message = {"error": "Invalid credentials in Authorization header"}
            return self._reply(message, status=hub.refuse)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, [wanted.get("organization"), wanted["name"]]))
            private = wanted.get("private", wanted.get("visibility") == "private")
            hub.repositories[name] = private
            return self._reply({"url": f"{hub.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._reply({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self._reply(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs"
                            if file["path"].endswith(".safetensors")
                            else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._reply(
                {
                    "transfer": "basic",
                    "objects": [
                        {
                            "oid": item["oid"],
                            "size": item["size"],
                            "actions": {"upload": {"href": f"{hub.address}/upload/{item['oid']}"}},
                        }
                        for item in json.loads(body)["objects"]
                    ],
                }
            )
        if "/commit/" in self.path:
            for line in body.splitlines():
                self._commit(json.loads(line))
            name = re.match(r"/api/models/(.+)/commit/", self.path)[1]
            return self._reply(
                {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}",
                }
            )
        return self._reply({"error": "no such address"}, status=404)

    def do_PUT(self):
        self.hub.lfs[self.path.rpartition("/")[2]] = self._body()
        self._reply({})

    def do_GET(self):
        self.hub.requests.append(f"GET {self.path}")
        if self.hub.refuse is not None:
            return self._reply({"error": "Unauthorized"}, status=self.hub.refuse)
        if self.path.startswith("/api/models/"):
            return self._reply({"id": "someone/router", "sha": "0" * 40, "siblings": []})
        return self._reply({"error": "no such address"}, status=404)

    def _commit(self, item):
        value = item["value"]
        if item["key"] == "file":
            self.hub.files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            self.hub.files[value["path"]] = self.hub.lfs[value["oid"]]

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, content, *, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextmanager
def hub_server(*, refuse=None):
    """A hub; with ``refuse`` it answers everything with that status."""
    hub = Hub()
    hub.refuse = refuse
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
