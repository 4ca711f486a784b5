// ws, the WebSocket server of node, as guides show it: what a client of /publish says goes to all of /ws.
const { WebSocketServer, WebSocket } = require('ws');

const HELLO = '{"type":"hello"}';
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 4096, perMessageDeflate: false });
const subscribers = new Set();
server.on('listening', () => console.log(`listening 127.0.0.1:${server.address().port}`));
server.on('connection', (socket, request) => {
  if (request.url === '/publish') {
    socket.on('message', (data) => {
      for (const client of subscribers) {
        if (client.readyState === WebSocket.OPEN) client.send(data, { binary: false });
      }
    });
  } else {
    subscribers.add(socket);
    socket.on('close', () => subscribers.delete(socket));
  }
  socket.on('error', () => {});
  socket.send(HELLO);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit());
