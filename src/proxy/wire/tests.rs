use futures::poll;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::*;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n";
const KEY: u64 = 7;

/// A connection, its other end, and the place where it is kept.
async fn connection(most: usize) -> (OneWrite, TcpStream, Arc<Kept>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let kept = Kept::new(most);
    let idle = Duration::from_mins(1);
    let line = Line::new(TcpConnection::from(near), KEY, idle, Arc::downgrade(&kept)).unwrap();
    (OneWrite { line: Some(Box::new(line)) }, far, kept)
}

fn sent(connection: &OneWrite) -> usize {
    usize::try_from(connection.line().course.sent.load(Ordering::Relaxed)).unwrap()
}

/// Sends a request and takes its answer.
async fn exchange(near: &mut OneWrite, far: &mut TcpStream) {
    near.write_all(HEAD).await.unwrap();
    near.flush().await.unwrap();
    near.write_all(b"body").await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut vec![0; HEAD.len() + 4]).await.unwrap();
    far.write_all(b"answer").await.unwrap();
    near.read_exact(&mut [0; 6]).await.unwrap();
}

#[tokio::test]
async fn head_and_body_leave_together() {
    let (mut near, mut far, _kept) = connection(1).await;
    for _ in 0..2 {
        let before = sent(&near);
        near.write_all(HEAD).await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(sent(&near), before);
        near.write_all(b"body").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(sent(&near), before + HEAD.len() + 4);
        let mut read = vec![0; 1_024];
        let count = far.read(&mut read).await.unwrap();
        assert_eq!(&read[..count], [HEAD, b"body"].concat());
        far.write_all(b"answer").await.unwrap();
        near.read_exact(&mut [0; 6]).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_without_a_body_waits_for_no_other_flush_than_the_second() {
    let (mut near, mut far, _kept) = connection(1).await;
    near.write_all(HEAD).await.unwrap();
    near.flush().await.unwrap();
    near.flush().await.unwrap();
    let mut read = vec![0; HEAD.len()];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(read, HEAD);
}

#[tokio::test]
async fn a_head_leaves_when_its_answer_is_looked_for_again() {
    let (mut near, mut far, _kept) = connection(1).await;
    near.write_all(HEAD).await.unwrap();
    near.flush().await.unwrap();
    let mut read = [0; 16];
    let mut answer = std::pin::pin!(near.read(&mut read));
    assert!(poll!(answer.as_mut()).is_pending());
    assert!(poll!(answer.as_mut()).is_pending());
    far.read_exact(&mut vec![0; HEAD.len()]).await.unwrap();
}

#[tokio::test]
async fn a_body_larger_than_the_sockets_room_arrives_whole() {
    let (mut near, mut far, _kept) = connection(1).await;
    let body: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = [HEAD, &body].concat();
    let reading = tokio::spawn(async move {
        let mut read = vec![0; expected.len()];
        far.read_exact(&mut read).await.unwrap();
        assert!(read == expected);
    });
    near.write_all(HEAD).await.unwrap();
    near.flush().await.unwrap();
    near.write_all(&body).await.unwrap();
    near.flush().await.unwrap();
    reading.await.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_once_the_whole_answer_has_come() {
    let (mut near, mut far, kept) = connection(1).await;
    exchange(&mut near, &mut far).await;
    let course = near.line().course.clone();
    {
        let mut byte = [0];
        let mut last_look = std::pin::pin!(near.read(&mut byte));
        assert!(poll!(last_look.as_mut()).is_pending(), "more of the answer may come");
    }
    course.answered.store(true, Ordering::Relaxed);
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    drop(near);
    assert!(kept.take(KEY + 1).is_none());
    let line = kept.take(KEY).unwrap();
    assert!(kept.take(KEY).is_none());
    assert!(course.reused.load(Ordering::Relaxed) && !course.answered.load(Ordering::Relaxed));
    let mut again = OneWrite { line: Some(line) };
    exchange(&mut again, &mut far).await;
    drop(again);
    assert!(kept.take(KEY).is_none(), "it was not let go of");
}

#[tokio::test]
async fn a_connection_that_was_closed_or_spoken_on_is_not_used_again() {
    for says in [&b""[..], b"unasked"] {
        let (mut near, mut far, kept) = connection(1).await;
        exchange(&mut near, &mut far).await;
        near.line().course.answered.store(true, Ordering::Relaxed);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        drop(near);
        far.write_all(says).await.unwrap();
        drop(far);
        let gone = async {
            while kept.waiting() > 0 {
                kept.look();
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
        assert!(kept.take(KEY).is_none());
    }
}

#[tokio::test]
async fn no_more_are_kept_than_there_is_room_for() {
    let (mut near, mut far, kept) = connection(0).await;
    exchange(&mut near, &mut far).await;
    near.line().course.answered.store(true, Ordering::Relaxed);
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    drop(near);
    assert_eq!(kept.waiting(), 0);
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "it is closed");
}
