"use strict";
(() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const $ = id => document.getElementById(id);
  const percent = p => (100 * p).toLocaleString("en", { maximumFractionDigits: 1 }) + " %";
  let session = null, stream = null, waiting = null, working = false;

  // Scripts may be loaded from a disk too, where a browser forbids every other way to read a file: so runtime and model come as scripts.
  const script = source => new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.onload = resolve;
    element.onerror = () => reject(new Error(source + " is missing: copy the whole folder"));
    element.src = source;
    document.head.append(element);
  });

  const bytes = text => Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), c => c.charCodeAt(0));

  const say = text => { $("status").textContent = text; };

  const painted = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));

  async function load() {
    await Promise.all(["ort.wasm.min.js", "runtime.js", "model.js"].map(script));
    const parts = globalThis.deepfakelab;
    ort.env.wasm.numThreads = 1; // more need HTTP headers that a plain server does not send
    ort.env.wasm.wasmBinary = bytes(parts.wasm);
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([bytes(parts.loader)], { type: "text/javascript" })) };
    session = await ort.InferenceSession.create(bytes(parts.model), { executionProviders: ["wasm"] });
    delete globalThis.deepfakelab;
    performance.mark("ready");
    say("Ready.");
    if (waiting)
      look(waiting);
  }

  /** One picture through the network: probabilities of the classes, and what each place adds to each logit. */
  async function run(rgb) {
    const results = await session.run({ image: new ort.Tensor("uint8", rgb, [1, settings.height, settings.width, 3]) });
    return { probabilities: [...results.probabilities.data], maps: results.maps && { values: results.maps.data, height: results.maps.dims[2], width: results.maps.dims[3] } };
  }

  /** Pillow's kernels, and its fixed-point weights of the input pixels that each output pixel takes (Resample.c). */
  function weights(input, output) {
    const cubic = settings.interpolation === "bicubic", scale = input / output, filterScale = Math.max(scale, 1), support = (cubic ? 2 : 1) * filterScale, a = -.5;
    const kernel = cubic ? x => x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0 : x => x < 1 ? 1 - x : 0;
    return Array.from({ length: output }, (_, i) => {
      const center = (i + .5) * scale, first = Math.max(Math.trunc(center - support + .5), 0), count = Math.min(Math.trunc(center + support + .5), input) - first;
      const values = Array.from({ length: count }, (_, k) => kernel(Math.abs((k + first - center + .5) * (1 / filterScale)))), sum = values.reduce((s, v) => s + v, 0);
      return { first, values: Int32Array.from(values, v => { const w = v / sum * 4194304; return w < 0 ? w - .5 : w + .5; }) };
    });
  }

  /** One direction: lines of pixels, "step" bytes from one to the next, become "output" long. */
  function resizeAlong(from, lines, fromLine, fromStep, input, output, toLine, toStep) {
    if (input === output)
      return from;
    const to = new Uint8ClampedArray(4 * lines * output), filter = weights(input, output);
    for (let line = 0; line < lines; line++)
      for (let i = 0; i < output; i++) {
        const { first, values } = filter[i];
        let at = line * fromLine + first * fromStep, r = 2097152, g = r, b = r;
        for (let k = 0; k < values.length; k++, at += fromStep) {
          r += from[at] * values[k];
          g += from[at + 1] * values[k];
          b += from[at + 2] * values[k];
        }
        const place = line * toLine + i * toStep;
        [to[place], to[place + 1], to[place + 2]] = [r >> 22, g >> 22, b >> 22];
      }
    return to;
  }

  /** The pixels as the network was trained on them, to the bit as Pillow and torchvision resize: a canvas would blur otherwise. */
  function resized(rgba, width, height) {
    const w = settings.width, h = settings.height;
    const rows = resizeAlong(rgba, height, 4 * width, 4, width, w, 4 * w, 4);
    return resizeAlong(rows, w, 4, 4 * w, height, h, 4, 4 * w);
  }

  function bytesOf(rgba, mirrored) {
    const { width, height } = settings, rgb = new Uint8Array(3 * width * height);
    for (let y = 0, to = 0; y < height; y++)
      for (let x = 0; x < width; x++, to += 3) {
        const from = 4 * (y * width + (mirrored ? width - 1 - x : x));
        rgb.set(rgba.subarray(from, from + 3), to);
      }
    return rgb;
  }

  /** How much each place speaks for a fake rather than for the other classes; of the picture and its mirror, where both were seen. */
  function evidence(passes) {
    const { height, width } = passes[0].maps, classes = settings.classes.length, sum = new Float64Array(height * width);
    passes.forEach(({ maps }, mirrored) => {
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++)
          for (let c = 0; c < classes; c++) {
            const value = maps.values[(c * height + y) * width + (mirrored ? width - 1 - x : x)];
            sum[y * width + x] += (c === settings.fake ? value : -value / (classes - 1)) / passes.length;
          }
    });
    return { height, width, values: sum };
  }

  function draw({ height, width, values }) {
    const most = Math.max(...values.map(Math.abs)), small = new OffscreenCanvas(width, height), context = small.getContext("2d"), image = context.createImageData(width, height);
    values.forEach((v, i) => image.data.set([v > 0 ? 220 : 30, 40, v > 0 ? 30 : 220, most > 0 ? 140 * Math.abs(v) / most : 0], 4 * i));
    context.putImageData(image, 0, 0);
    const heat = $("heat"), picture = $("picture");
    [heat.width, heat.height] = [picture.width, picture.height];
    heat.getContext("2d").drawImage(small, 0, 0, heat.width, heat.height);
    const at = values.indexOf(Math.max(...values)), third = (i, n, names) => names[Math.min(2, Math.floor(3 * (i + .5) / n))];
    const row = third(Math.floor(at / width), height, ["upper", "middle", "lower"]), column = third(at % width, width, ["left", "middle", "right"]);
    $("place").textContent = values[at] > 0 ? `Most of it lies in the ${row === column ? "middle" : `${row} ${column}`}.` : "No place speaks for it.";
  }

  async function look(source) {
    if (!session || working) {
      waiting = source; // the latest one counts
      return;
    }
    [working, waiting] = [true, null];
    try {
      say("Looking …");
      await painted();
      performance.mark("given");
      let bitmap;
      try {
        // as the pixels lie in the file, as in training: not turned, colours not converted
        bitmap = await createImageBitmap(source, { imageOrientation: "none", colorSpaceConversion: "none", premultiplyAlpha: "none" });
      } catch {
        throw new Error("This file is no picture that the browser can read. Try a JPEG or PNG");
      }
      const { width, height } = bitmap;
      if (width * height > settings.mostPixels)
        throw new Error(`The picture has more than ${settings.mostPixels / 1e6} megapixels. Make it smaller`);
      const canvas = $("picture"), context = canvas.getContext("2d", { willReadFrequently: true });
      [canvas.width, canvas.height] = [width, height];
      context.drawImage(bitmap, 0, 0);
      bitmap.close();
      const rgba = resized(context.getImageData(0, 0, width, height).data, width, height), passes = [];
      for (const mirrored of settings.mirror ? [false, true] : [false])
        passes.push(await run(bytesOf(rgba, mirrored)));
      const probabilities = settings.classes.map((_, c) => passes.reduce((sum, p) => sum + p.probabilities[c], 0) / passes.length);
      const fake = probabilities[settings.fake], label = settings.classes[probabilities.indexOf(Math.max(...probabilities))];
      $("verdict").textContent = `${label}: it holds the picture to be ${settings.classes[settings.fake]} with a probability of ${percent(fake)}`;
      $("bar").value = fake;
      $("bar").textContent = percent(fake);
      canvas.setAttribute("aria-label", `The picture you gave, ${width} by ${height} pixels`);
      if (passes[0].maps)
        draw(evidence(passes));
      $("legend").hidden = !passes[0].maps;
      $("nomap").hidden = !$("legend").hidden;
      $("answer").hidden = false;
      $("answer").dataset.probability = fake; // unrounded, for whoever compares
      const took = performance.measure("answer", "given").duration;
      say(`Answered in ${(took / 1000).toFixed(2)} s, on this device. It may well be wrong: see below.`);
      $("answer").scrollIntoView({ block: "nearest" });
    } catch (error) {
      $("answer").hidden = true;
      say(`${error.message.replace(/\.$/, "")}.`);
    } finally {
      working = false;
      if (waiting)
        look(waiting);
    }
  }

  function stop() {
    stream?.getTracks().forEach(track => track.stop());
    stream = $("video").srcObject = null;
    $("live").hidden = true;
    $("camera").hidden = false;
  }

  $("file").addEventListener("change", e => { if (e.target.files[0]) look(e.target.files[0]); e.target.value = ""; });
  document.addEventListener("paste", e => { if (e.clipboardData?.files[0]) look(e.clipboardData.files[0]); });
  document.addEventListener("dragover", e => { e.preventDefault(); $("ask").classList.add("over"); });
  document.addEventListener("dragleave", () => $("ask").classList.remove("over"));
  document.addEventListener("drop", e => {
    e.preventDefault(); // else the browser would leave the page for the picture
    $("ask").classList.remove("over");
    const file = e.dataTransfer?.files[0];
    if (file)
      look(file);
    else
      say("That was no file. Save the picture first, then drop it here.");
  });
  $("show").addEventListener("change", e => { $("heat").hidden = !e.target.checked; });
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia; // only pages over https and from this machine have one
  $("camera").addEventListener("click", async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
      $("video").srcObject = stream;
      $("live").hidden = false;
      $("camera").hidden = true;
      $("take").focus();
    } catch (error) {
      say(`The camera cannot be used (${error.message || error.name}). Choose a picture instead.`);
    }
  });
  $("take").addEventListener("click", () => {
    const video = $("video");
    if (!video.videoWidth)
      return say("The camera shows nothing yet.");
    const still = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    still.getContext("2d").drawImage(video, 0, 0);
    stop();
    look(still);
  });
  $("stop").addEventListener("click", stop);

  load().catch(error => say(`The model cannot be loaded: ${error.message.replace(/\.$/, "")}. A current Firefox, Chrome, Edge or Safari can.`));
})();
