-- The files of retrieval and their chunks. They need pgvector; without it the
-- server works, but for retrieval.
--
-- Nothing here touches a database that has chatbot-ui's own schema, and every
-- statement can be run again.

do $$
declare
  -- Where the type `vector` lives: `extensions` on Supabase, else `public`.
  home text;
begin
  if to_regclass('public.files') is not null then
    raise notice 'public.files exists already: nothing is changed';
    return;
  end if;
  if not exists (select from pg_available_extensions where name = 'vector') then
    raise notice 'pgvector is not installed: the tables for retrieval are not made';
    return;
  end if;
  if not exists (select from pg_extension where extname = 'vector') then
    if to_regnamespace('extensions') is not null then
      create extension vector schema extensions;
    else
      create extension vector;
    end if;
  end if;
  select quote_ident(nspname) into strict home
    from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
    where extname = 'vector';

  create table public.files (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    -- chatbot-ui's folders are not among this server's tables.
    folder_id uuid,
    created_at timestamptz not null default current_timestamp,
    updated_at timestamptz,
    sharing text not null default 'private',
    description text not null check (char_length(description) <= 500),
    file_path text not null check (char_length(file_path) <= 1000),
    name text not null check (char_length(name) <= 100),
    size integer not null,
    tokens integer not null,
    type text not null check (char_length(type) <= 100)
  );
  create index files_user_id on public.files (user_id);

  execute format($items$
    create table public.file_items (
      id uuid primary key default gen_random_uuid(),
      file_id uuid not null references public.files (id) on delete cascade,
      user_id uuid not null references auth.users (id) on delete cascade,
      created_at timestamptz not null default current_timestamp,
      updated_at timestamptz,
      sharing text not null default 'private',
      content text not null,
      local_embedding %1$s.vector(384),
      openai_embedding %1$s.vector(1536),
      tokens integer not null
    );
    create index file_items_file_id on public.file_items (file_id);
    create index file_items_local on public.file_items
      using hnsw (local_embedding %1$s.vector_cosine_ops);
    create index file_items_openai on public.file_items
      using hnsw (openai_embedding %1$s.vector_cosine_ops);
  $items$, home);

  create trigger update_files_updated_at before update on public.files
    for each row execute function public.chatbot_ui_api_updated_at();
  create trigger update_file_items_updated_at before update on public.file_items
    for each row execute function public.chatbot_ui_api_updated_at();

  alter table public.files enable row level security;
  alter table public.file_items enable row level security;
  create policy "own files" on public.files
    using (user_id = auth.uid()) with check (user_id = auth.uid());
  create policy "shared files" on public.files
    for select using (sharing <> 'private');
  create policy "own items" on public.file_items
    using (user_id = auth.uid()) with check (user_id = auth.uid());
  create policy "items of shared files" on public.file_items
    for select using (file_id in (select id from public.files where sharing <> 'private'));

  if to_regrole('anon') is not null and to_regrole('authenticated') is not null and to_regrole('service_role') is not null then
    grant select, insert, update, delete on public.files, public.file_items
      to anon, authenticated, service_role;
  end if;
end
$$;
