"""HTTP/1.1 on asyncio transports, spoken to the rest of the house in tornado's ``httputil`` interfaces.

``server`` accepts connections and keeps their deadlines; ``connection`` turns bytes into requests;
``exchange`` is one request and its answer. What a request means is the application's business.
"""
