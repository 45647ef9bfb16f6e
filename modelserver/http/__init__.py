"""HTTP/1.1 on asyncio transports, spoken to the rest of the house in tornado's ``httputil`` interfaces.

``server`` accepts connections and keeps their deadlines; ``connection`` turns bytes into requests, on top of
``outgoing``, its writing half; ``head`` checks what a request begins with; ``exchange`` is a request and its
answer; ``limits`` is what one client may ask. What a request means is the application's business.
"""
