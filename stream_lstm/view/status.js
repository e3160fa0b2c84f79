// Shows the status that the page's server sends each second, and finds by itself that it stopped.
(() => {
  const QUIET_MS = 5000
  const MARKS = {waiting: "\u25cb", live: "\u25cf", late: "\u25d0", ended: "\u25a0", lost: "\u2715"}
  const place = document.getElementById("status")
  let sent = null, heard = performance.now(), turn = heard
  let status = {name: "waiting", stream: "", reason: "Waiting for the page's server."}

  const show = ({name, stream, reason}) => {
    document.documentElement.dataset.status = name
    document.title = `${MARKS[name] ?? ""} ${name}${stream && ": "}${stream} - stream-lstm`
    if (place.textContent !== reason) place.textContent = reason
  }
  const look = () => {
    const now = performance.now()
    const pulse = globalThis.Bokeh?.documents[0]?.get_model_by_name("pulse")?.tags[0]
    if (pulse !== undefined && pulse !== sent) {
      sent = pulse
      heard = now
      status = JSON.parse(pulse)
    }
    // a browser that slept or slowed its timers first has to read what came meanwhile
    if (now - turn > QUIET_MS) heard = Math.max(heard, now - QUIET_MS / 2)
    turn = now
    const quiet = now - heard
    show(quiet <= QUIET_MS ? status : {
      name: "lost",
      stream: status.stream,
      reason: `This page has heard nothing for ${Math.floor(quiet / 1000)} seconds: the daemon or the `
        + `page's server is gone. Reload the page when it runs again. Last status: ${status.reason}`,
    })
  }
  look()
  setInterval(look, 500)
})()
