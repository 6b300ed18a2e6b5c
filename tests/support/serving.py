"""A dashboard on this machine, and requests to it."""

import http.client
import json
import threading
from contextlib import contextmanager

from dropopt.study.show.dashboard import Server


@contextmanager
def serving(storage, host="127.0.0.1", **options):
    """A function that sends a request to a dashboard of ``storage`` and returns the status, the text and the headers.

    ``host`` and the values of headers may contain ``{port}``. The attribute ``address`` has the dashboard's address.
    """
    with Server(storage, host, 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        port = server.server_port

        def request(method, path, body=None, host=None, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.putrequest(method, path, skip_host=True)
            named = {name.replace("_", "-"): value.format(port=port) for name, value in headers.items()}
            if host != "":
                named["Host"] = (host or "127.0.0.1:{port}").format(port=port)
            data = None if body is None else json.dumps(body).encode()
            if data is not None:
                named |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            return answer.status, text, answer.headers

        request.address = f"127.0.0.1:{port}"
        try:
            yield request
        finally:
            server.shutdown()
            thread.join()
