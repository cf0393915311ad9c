"""The page in the browser, and the HTTP API.

python app.py                                    the page at http://localhost:8081, the API's own page at /docs
python app.py --no-page --token SECRET           the API alone

Reads the words, loads the prior once, serves: see `serve` in microdreamer/web/server.py, docs/page.md and docs/api.md.
"""

import sys

from microdreamer.web.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
