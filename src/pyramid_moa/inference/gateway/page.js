"use strict";
const find = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(1) + " %";
const money = (usd) => (usd < 0 ? "−" : "") + "$" + Number(Math.abs(usd).toPrecision(3));
const span = (seconds) =>
  seconds < 1 ? (1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0) + " ms" : seconds.toFixed(2) + " s";

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// What has happened, anew every few seconds while somebody looks.
async function refresh() {
  const reply = await fetch("live");
  if (!reply.ok) return;
  const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
  for (const id of ["figures", "happened"]) find(id).replaceWith(fresh.getElementById(id));
}
setInterval(() => {
  if (!document.hidden) refresh().catch(() => {});
}, 3000);

// The dial.
const slider = find("slider");
const curve = slider && JSON.parse(find("curve").textContent);
const dialThreshold = () => Number(curve.points[Number(slider.value)].threshold.toPrecision(6));

function showPoint() {
  const own = curve.points[Number(slider.value)];
  const served = curve.points[curve.served];
  const apart = (difference, unit, places) => {
    const text = Math.abs(difference).toFixed(places);
    if (Number(text) === 0) return "";
    return " (" + (difference < 0 ? "−" : "+") + text + unit + " to the one served)";
  };
  const words = {
    threshold: own.threshold.toFixed(3),
    accuracy: percent(own.accuracy) + apart(100 * (own.accuracy - served.accuracy), " points", 1),
    cost_ratio: own.cost_ratio.toFixed(3) + apart(own.cost_ratio - served.cost_ratio, "", 3),
    escalation_rate: percent(own.escalation_rate),
  };
  for (const place of find("at").querySelectorAll("dd")) place.textContent = words[place.dataset.of];
  find("shown").setAttribute("cx", own.x);
  find("shown").setAttribute("cy", own.y);
  find("how").textContent = JSON.stringify({ pyramid: { threshold: dialThreshold() } });
  find("flag").textContent = "--threshold " + dialThreshold();
  find("dial-threshold").textContent = words.threshold;
  slider.setAttribute(
    "aria-valuetext",
    `threshold ${words.threshold}: accuracy ${words.accuracy}, cost ${words.cost_ratio} of the oracle's`,
  );
}
if (curve) {
  slider.addEventListener("input", showPoint);
  showPoint();
}

const oracles = JSON.parse(find("ask").dataset.oracles);

// One question on its way: who is asked, what was decided, what was said.
class Course {
  constructor() {
    find("course").replaceChildren();
    this.members = this.stage("Members");
    this.answers = element("ul", undefined, "answers");
    this.answers.append(element("li", "asked …", "waiting"));
    this.members.append(this.answers);
  }

  stage(title) {
    const place = element("li");
    place.append(element("h3", title));
    find("course").append(place);
    return place;
  }

  // Another model has taken over: what was said before holds no longer.
  strike(characters) {
    const text = Array.from(this.said.textContent);
    this.said.replaceChildren(
      element("del", text.slice(0, characters).join("").trimEnd()),
      "\n" + text.slice(characters).join(""),
    );
  }

  decide(block) {
    if (this.decision || typeof block.escalated !== "boolean") return;
    this.members.classList.add("done");
    if (block.models_called?.length) {
      this.answers.replaceChildren(...block.models_called.map((name) => element("li", name)));
    }
    this.decision = this.stage("Decision");
    this.decision.classList.add("done");
    this.word = element("p", block.escalated ? "The oracle is asked." : "The members are believed.");
    const fails = block.p_ensemble_fails;
    this.decision.append(this.word);
    if (typeof fails === "number") {
      this.limit = element(
        "p",
        `p(ensemble fails) ${fails.toFixed(3)}, threshold ${block.threshold.toFixed(3)}`,
        "note",
      );
      this.decision.append(this.limit);
    }
    say(this.word.textContent);
  }

  write(text) {
    if (!this.said) {
      this.answer = this.stage("Answer");
      this.said = element("div", "", "said");
      this.answer.append(this.said);
    }
    this.said.append(text);
  }

  finish(block) {
    this.decide(block);
    const all = Object.entries(block.models ?? {});
    const members = all.filter(([name]) => !oracles.includes(name));
    const tell = ([name, row]) => told(name, row, block);
    if (members.length) this.answers.replaceChildren(...members.map(tell));
    else this.answers.replaceChildren(element("li", "not asked"));
    this.members.classList.add("done");
    if (this.word) this.word.textContent = block.reason;
    this.limit?.remove();
    this.write("");
    if (block.void_characters) this.strike(block.void_characters);
    this.answer.classList.add("done");
    const others = element("ul", undefined, "answers");
    others.append(...all.filter(([name]) => oracles.includes(name)).map(tell));
    if (others.children.length) this.said.before(others);
    const parts = ["by " + (block.answered_by ?? "nobody") + (block.degraded ? ", degraded" : "")];
    for (const stage of ["members", "router", "oracle"]) {
      if (block[stage + "_s"] > 0) parts.push(stage + " " + span(block[stage + "_s"]));
    }
    if (typeof block.cost_usd === "number") parts.push("cost " + money(block.cost_usd));
    if (typeof block.saved_usd === "number") parts.push("saved " + money(block.saved_usd));
    this.answer.append(element("p", parts.join(" · "), "note"));
    say("Answered by " + (block.answered_by ?? "nobody") + ": " + block.reason);
  }

  fail(error) {
    if (error.pyramid?.models_called) this.finish(error.pyramid);
    for (const place of find("course").querySelectorAll(".waiting")) place.classList.remove("waiting");
    this.stage("Error").append(element("p", error.message, "failed"));
    say("No answer: " + error.message);
  }
}

function told(name, row, block) {
  const place = element("li");
  place.append(element("b", row.answer ?? (row.error ? "failed" : "no answer found")));
  const same = Object.entries(block.models).filter(
    ([other, own]) => other !== name && row.group !== null && own.group === row.group,
  );
  const parts = [name];
  if (same.length) parts.push("agrees with " + same.map(([other]) => other).join(", "));
  if (typeof row.latency_s === "number") parts.push(span(row.latency_s));
  if (typeof row.cost_usd === "number") parts.push(money(row.cost_usd));
  place.append(element("small", parts.join(" · ")));
  if (row.error) place.append(element("small", row.error, "failed"));
  return place;
}

const say = (text) => (find("status").textContent = text);

// The events of a stream: comments tell what was decided, data bring the text and the whole reason.
async function read(reply, course) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let block;
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith(": pyramid ")) {
        const told = JSON.parse(event.slice(10));
        if (told.fallback) say(told.fallback + " takes over.");
        else course.decide(told);
      }
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const data = JSON.parse(event.slice(6));
      if (data.error) throw new Refused(data.error);
      const text = data.choices?.[0]?.delta?.content;
      if (text) course.write(text);
      block = data.pyramid ?? block;
    }
  }
  if (!block) throw new Refused({ message: "the stream broke off" });
  course.finish(block);
}

class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.error = error;
  }
}

let underWay;
async function ask() {
  const body = {
    model: "pyramid",
    stream: true,
    messages: [{ role: "user", content: find("question").value }],
  };
  if (find("at-dial")?.checked) body.pyramid = { threshold: dialThreshold() };
  const course = new Course();
  say("The members are asked.");
  try {
    const reply = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: underWay.signal,
    });
    if (!reply.ok) throw new Refused((await reply.json()).error);
    await read(reply, course);
  } catch (error) {
    if (error.name === "AbortError") course.fail({ message: "stopped" });
    else course.fail(error.error ?? { message: "the gateway can't be reached" });
  }
}

find("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  underWay = new AbortController();
  find("send").disabled = true;
  find("stop").disabled = false;
  await ask();
  find("send").disabled = false;
  find("stop").disabled = true;
  refresh().catch(() => {});
});
find("stop").addEventListener("click", () => underWay.abort());
find("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("ask").requestSubmit();
});
