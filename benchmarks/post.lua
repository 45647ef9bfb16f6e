-- For wrk: posts a body, prints one line of JSON at the end.
--   wrk -s post.lua URL -- BODY_FILE [HEADER VALUE ...]

function init(args)
   wrk.method = "POST"
   local file = assert(io.open(args[1], "rb"))
   wrk.body = file:read("*a")
   file:close()
   for i = 2, #args, 2 do
      wrk.headers[args[i]] = args[i + 1]
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   local lost = errors.connect + errors.read + errors.write + errors.timeout
   print(string.format(
      '{"requests": %d, "seconds": %.6f, "not_ok": %d, "lost": %d, "p50_ms": %.3f, "p99_ms": %.3f}',
      summary.requests, summary.duration / 1e6, errors.status, lost,
      latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
