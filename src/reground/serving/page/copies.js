// An answer as people take it elsewhere; an entry is {asked, answer, photos}.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const address = () => new URL("v1/ground", location.href);

export const COPIES = {
  json: ({ answer }) => JSON.stringify(answer, null, 2),
  coco: ({ answer, asked, photos }) => JSON.stringify({
    images: [{ id: 1, file_name: photos[answer.image].name, width: answer.width, height: answer.height }],
    categories: [{ id: 1, name: asked.text }],
    annotations: answer.boxes.map(({ box: [x1, y1, x2, y2], score }, place) => ({
      id: place + 1, image_id: 1, category_id: 1, bbox: [x1, y1, x2 - x1, y2 - y1],
      area: (x2 - x1) * (y2 - y1), iscrowd: 0, score,
    })),
  }, null, 2),
  curl: ({ asked, answer }) => [
    `base64 -w0 PHOTO | jq -R --arg text ${quoted(asked.text)} --arg model ${quoted(answer.model)} \\`,
    `  '{images: ["data:image/jpeg;base64," + .], text: $text, model: $model}' \\`,
    `  | curl ${address()} -H 'Content-Type: application/json' -d @-`,
  ].join("\n"),
  python: ({ asked, answer }) => [
    "import base64, httpx",
    "",
    'photo = "data:image/jpeg;base64," + base64.b64encode(open("PHOTO", "rb").read()).decode()',
    `asked = {"images": [photo], "text": ${JSON.stringify(asked.text)}, "model": ${JSON.stringify(answer.model)}}`,
    `answer = httpx.post("${address()}", json=asked, timeout=120).json()`,
    'print(answer["boxes"])',
  ].join("\n"),
};
