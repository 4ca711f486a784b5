// ioredis as an ordinary consumer: XREAD in batches of 1000, details parsed. Arguments: port, entries, stream.
const Redis = require('ioredis');

const [port, entries, stream] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];
const redis = new Redis(port, '127.0.0.1');

async function read() {
  let done = 0, position = '0-0';
  while (done < entries) {
    const [[, batch]] = await redis.xread('COUNT', 1000, 'STREAMS', stream, position);
    for (const [id, fields] of batch) {
      JSON.parse(fields[fields.indexOf('details') + 1]);
      position = id;
    }
    done += batch.length;
  }
  console.log('done');
}

redis.ping().then(() => {
  console.log('ready');
  let begun = false;
  process.stdin.on('data', () => {
    if (!begun) {
      begun = true;
      read();
    }
  });
  process.stdin.on('end', () => process.exit());
});
