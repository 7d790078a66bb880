(() => {
  "use strict";
  const store = JSON.parse(document.getElementById("store").textContent);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const urls = new Map();
  const errors = [];
  window.addEventListener("error", (event) => errors.push(String(event.message)));
  let paused = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  // A blob, made when a clip is first seen: players that refuse data addresses take it, and the page stays light.
  const urlOf = (key, index) => {
    const name = `${key}#${index}`;
    if (!urls.has(name)) {
      const bytes = Uint8Array.from(atob(store.clips[key][index]), (c) => c.charCodeAt(0));
      urls.set(name, URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
    }
    return urls.get(name);
  };

  const rounds = all("select.pick-round");
  const round = () => rounds[0].value;
  const keyOf = (name) => name.replace("{round}", round());

  const place = (video) => {
    const group = video.closest(".group");
    const key = keyOf(video.dataset.clip);
    if (!(key in store.clips)) return;
    const url = urlOf(key, Number(group.querySelector(".pick-prompt").value));
    if (video.dataset.at !== url) {
      video.dataset.at = url;
      video.src = url;
    }
    if (paused) video.pause();
    else video.play().catch(() => {});
  };

  // Clips of a group are of one length: all start again together, so that they can be compared frame by frame.
  const show = (group) => {
    const videos = all("video", group);
    videos.forEach(place);
    videos.forEach((video) => { if (video.readyState) video.currentTime = 0; });
  };

  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.add(entry.target); show(entry.target); }
      else { seen.delete(entry.target); all("video", entry.target).forEach((video) => video.pause()); }
    }
  }, { rootMargin: "200px" });
  all(".group").forEach((group) => watcher.observe(group));

  const mark = () => {
    const removed = store.rounds[round()];
    all("[data-block]").forEach((block) => block.classList.toggle("gone", removed.includes(block.dataset.block)));
    all("video").filter((video) => video.dataset.clip.includes("{round}")).forEach((video) => {
      const [label, note] = store.notes[keyOf(video.dataset.clip)] || ["", ""];
      const figure = video.closest("figure");
      // A round that was not repaired has one clip, not the same one twice.
      figure.hidden = !(keyOf(video.dataset.clip) in store.clips);
      if (figure.hidden) video.pause();
      video.setAttribute("aria-label", `Video: ${label}`);
      figure.querySelector("[data-label]").textContent = label;
      figure.querySelector("[data-note]").textContent = note;
    });
    document.getElementById("gone").textContent = `${round()} deletes ${removed.length} blocks: ${removed.join(", ")}.`;
  };

  rounds.forEach((select) => select.addEventListener("change", () => {
    rounds.forEach((other) => { other.value = select.value; });
    mark();
    seen.forEach(show);
  }));
  all("select.pick-prompt").forEach((select) =>
    select.addEventListener("change", () => show(select.closest(".group"))));

  const button = document.getElementById("playing");
  const say = () => {
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Play all videos" : "Pause all videos";
  };
  button.addEventListener("click", () => {
    paused = !paused;
    say();
    if (paused) all("video").forEach((video) => video.pause());
    else seen.forEach(show);
  });
  say();
  mark();

  // #selftest: every choice of every picker, every video; what was found is written into the page.
  const loaded = (video) => new Promise((done) => {
    if (video.readyState >= 2) return done(video.videoWidth > 0);
    const late = setTimeout(() => done(false), 4000);
    video.addEventListener("loadeddata", () => { clearTimeout(late); done(video.videoWidth > 0); }, { once: true });
    video.addEventListener("error", () => { clearTimeout(late); done(false); }, { once: true });
    video.preload = "auto";
    video.load();
  });
  const selftest = async () => {
    const found = { pickers: 0, choices: 0, videos: 0, failures: [] };
    for (const select of all("select")) {
      found.pickers += 1;
      for (const option of all("option", select)) {
        select.value = option.value;
        select.dispatchEvent(new Event("change"));
        found.choices += 1;
        const group = select.closest(".group");
        for (const video of group ? all("figure:not([hidden]) video", group) : []) {
          place(video);
          found.videos += 1;
          if (!(await loaded(video))) found.failures.push(`${select.id} ${option.value}: ${video.dataset.clip}`);
        }
        if (select.classList.contains("pick-round")) {
          if (rounds.some((other) => other.value !== option.value)) found.failures.push(`${select.id}: not in step`);
          if (all(".block.gone").length !== store.rounds[option.value].length) found.failures.push(`map: ${option.value}`);
        }
      }
    }
    button.click();
    if (paused && all("video").some((video) => !video.paused)) found.failures.push("pause");
    found.overflow = Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth);
    const out = document.createElement("pre");
    out.id = "selftest";
    out.textContent = JSON.stringify({ ...found, errors });
    document.body.append(out);
  };
  if (location.hash === "#selftest") selftest();
})();
