//! The floor of the latency: a blocked `XREAD`, then one write into one socket.

use std::io::{BufRead, Write};

use super::reader::walk;
use crate::{
    Res,
    resp::{self, Conn},
    ws,
};

/// `floor-relay REDIS STREAM BYTES`: says `listening ADDRESS`, takes one client, and sends it a frame for each entry.
pub fn run(arguments: &[String]) -> Res<()> {
    let [redis, stream, bytes] = arguments else { return Err("floor-relay REDIS STREAM BYTES".into()) };
    let alert = crate::alert_like(bytes.parse()?);
    let mut conn = Conn::open(redis.parse()?)?;
    let listener = crate::listener()?;
    println!("listening {}", listener.local_addr()?);
    let (mut client, _) = listener.accept()?;
    client.set_nodelay(true)?;
    let mut head = std::io::BufReader::new(client.try_clone()?);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? <= 2 {
            break;
        }
    }
    let mut out = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec();
    ws::push_frame(&mut out, ws::TEXT, crate::HELLO.as_bytes());
    client.write_all(&out)?;
    let streams = [stream.clone()];
    let mut positions = ["$".to_owned()];
    loop {
        out.clear();
        // Under the patience of the connection, so that a quiet stream is no error.
        let words = ["XREAD", "COUNT", "1000", "BLOCK", "20000", "STREAMS", stream, &positions[0]];
        resp::command(&mut out, &words.map(str::as_bytes));
        conn.send(&out)?;
        let entries = walk(conn.reply()?, &streams, &mut positions, |_, _| Ok(()))?;
        out.clear();
        for _ in 0..entries {
            ws::push_frame(&mut out, ws::TEXT, alert.as_bytes());
        }
        client.write_all(&out)?;
    }
}
