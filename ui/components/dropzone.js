// Sends a dropped or chosen file straight to the upload route, with a progress bar; Streamlit's own uploader would keep
// the whole file in the server's memory. Reports {id} or {error} as the trigger value "done".
export default function ({ parentElement, data, setTriggerValue }) {
  const zone = parentElement.querySelector(".zone");
  const input = parentElement.querySelector("input");
  const label = parentElement.querySelector(".label");
  const hint = parentElement.querySelector(".hint");
  const bar = parentElement.querySelector(".bar i");
  label.textContent = data.label;
  hint.textContent = data.hint;
  input.accept = data.accept;
  input.setAttribute("aria-label", data.label);

  const send = (file) => {
    if (!file) return;
    const request = new XMLHttpRequest();
    const url = new URL(data.route, document.baseURI);
    url.searchParams.set("filename", file.name);
    zone.classList.add("busy");
    hint.textContent = `Sending ${file.name}`;
    const end = (result) => {
      zone.classList.remove("busy");
      bar.style.width = "0";
      input.value = "";
      hint.textContent = result.error || data.hint;
      zone.classList.toggle("refused", Boolean(result.error));
      if (result.id) setTriggerValue("done", result);
    };
    request.upload.onprogress = (event) => {
      if (!event.lengthComputable) return;
      bar.style.width = `${(100 * event.loaded) / event.total}%`;
      if (event.loaded === event.total) hint.textContent = `Checking ${file.name}`;
    };
    request.onerror = () => end({ error: "The studio is not running. Start it again." });
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* not JSON: said below */ }
      if (request.status === 201 && answer.kind !== data.kind) end({ error: `${file.name} ${data.other}` });
      else if (request.status === 201) end({ id: answer.id });
      else end({ error: answer.error ? answer.error.message : `The upload failed (${request.status}).` });
    };
    request.open("POST", url);
    request.send(file);
  };

  input.onchange = () => send(input.files[0]);
  zone.ondragover = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    send(event.dataTransfer.files[0]);
  };
}
